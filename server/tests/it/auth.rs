//! Token files, and JSON Web Tokens checked against a published key set.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use rsa::pkcs1::EncodeRsaPrivateKey as _;
use rsa::traits::PublicKeyParts as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use workspaced::{Auth, Server};

use crate::support::{Reply, Running, column, config, send, start_with};

async fn as_token(
    server: &Running,
    token: &str,
    method: Method,
    rest: &str,
    body: &Value,
) -> Reply {
    let request = server.client.request(method, server.url(rest)).bearer_auth(token);
    send(request.header("X-Correlation-Id", "c").header("If-Match", "*").json(body)).await
}

#[tokio::test]
async fn a_token_file_is_followed_while_the_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    std::fs::write(
        &path,
        "all\nreader subject=bob scopes=fs:read workspace=ws\n\
        elsewhere workspace=other\n",
    )
    .unwrap();
    let server = start_with(|config| config.auth = Auth::TokenFile(path.clone())).await;
    let put = |token: &'static str| {
        let body = json!({"content": "x"});
        let server = &server;
        async move { as_token(server, token, Method::PUT, "/fs/file?path=/a", &body).await }
    };
    put("all").await.expect(202);
    let refused = put("reader").await.fails(403, "forbidden");
    assert_eq!(refused["message"], "missing required scope: fs:write");
    assert_eq!(put("elsewhere").await.fails(403, "forbidden")["message"], "workspace mismatch");
    put("unknown").await.fails(401, "unauthorized");
    as_token(&server, "reader", Method::GET, "/fs/file?path=/a", &json!({})).await.expect(200);
    std::fs::write(&path, "changed\n").unwrap();
    put("all").await.fails(401, "unauthorized");
    put("changed").await.expect(202);
    std::fs::write(&path, "changed oops\n").unwrap();
    put("changed").await.fails(503, "unavailable");
    std::fs::remove_file(&path).unwrap();
    put("changed").await.fails(503, "unavailable");
    std::fs::write(&path, "back\n").unwrap();
    put("back").await.expect(202);
}

#[tokio::test]
async fn a_token_file_that_cannot_be_used_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let bind = async |path: &Path| {
        let mut config = config(folder.path());
        config.auth = Auth::TokenFile(path.to_owned());
        let result = Server::bind(config, "127.0.0.1:0".parse().unwrap()).await;
        result.unwrap_err().to_string()
    };
    assert!(bind(&folder.path().join("none")).await.contains("none"));
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "# nothing\n").unwrap();
    assert!(bind(&empty).await.contains("no token"));
}

/// Serves a fixed key set, forever.
async fn key_set(set: Value) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let body = set.to_string();
        let reply = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            assert!(read > 0);
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    url
}

struct Issuer {
    key: EncodingKey,
    set: Value,
}

impl Issuer {
    fn new() -> Self {
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
        let part = |number: &rsa::BigUint| URL_SAFE_NO_PAD.encode(number.to_bytes_be());
        let set = json!({"keys": [{"kid": "k1", "kty": "RSA", "alg": "RS256", "use": "sig",
            "n": part(key.n()), "e": part(key.e())}]});
        Self { key: EncodingKey::from_rsa_der(key.to_pkcs1_der().unwrap().as_bytes()), set }
    }

    fn sign(&self, kid: &str, changes: &Value) -> String {
        let mut claims = json!({"wks": "ws", "sub": "agent", "exp": 4_000_000_000u64,
            "aud": ["relayfile"], "scopes": ["fs:read", "fs:write"]});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(kid.to_owned());
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }
}

#[tokio::test]
async fn web_tokens_are_judged_by_their_claims() {
    let issuer = Issuer::new();
    let url = key_set(issuer.set.clone()).await;
    let server = start_with(|config| config.auth = Auth::Jwks { url }).await;
    let tree =
        async |token: &str| as_token(&server, token, Method::GET, "/fs/tree", &json!({})).await;
    let good = issuer.sign("k1", &json!({}));
    tree(&good).await.expect(200);
    tree(&format!("relay_ws_{good}")).await.expect(200);
    tree(&issuer.sign("k1", &json!({"scopes": "fs:read", "aud": "relayfile"}))).await.expect(200);
    for (changes, status, message) in [
        (json!({"exp": 1_000_000_000}), 401, "token expired"),
        (json!({"exp": "soon"}), 401, "missing exp claim"),
        (json!({"aud": "other"}), 401, "invalid aud claim"),
        (json!({"wks": "other"}), 403, "workspace mismatch"),
        (json!({"scopes": ["fs:write"]}), 403, "missing required scope: fs:read"),
        (json!({"scopes": []}), 403, "token has no scopes"),
    ] {
        let reply = tree(&issuer.sign("k1", &changes)).await;
        assert_eq!(reply.expect(status)["message"], message);
    }
    let unknown = tree(&issuer.sign("k2", &json!({}))).await.expect(401);
    assert_eq!(unknown["message"], "unknown jwt kid");
    let forged = Issuer::new().sign("k1", &json!({}));
    tree(&forged).await.fails(401, "unauthorized");
    tree("nonsense").await.fails(401, "unauthorized");
}

#[tokio::test]
async fn a_key_set_out_of_reach_is_said() {
    let url = "http://127.0.0.1:1/jwks".to_owned();
    let server = start_with(|config| config.auth = Auth::Jwks { url }).await;
    let token = Issuer::new().sign("k1", &json!({}));
    let reply = as_token(&server, &token, Method::GET, "/fs/tree", &json!({})).await;
    assert_eq!(reply.fails(503, "unavailable")["message"], "jwks unreachable");
}

#[tokio::test]
async fn path_grants_hold_for_each_file() {
    let issuer = Issuer::new();
    let url = key_set(issuer.set.clone()).await;
    let server = start_with(|config| config.auth = Auth::Jwks { url }).await;
    let token = issuer.sign(
        "k1",
        &json!({"scopes": ["relayfile:fs:write:/dir/**", "relayfile:fs:read:/dir/**"]}),
    );
    let files = json!({"files": [{"path": "/bad", "content": ""}, {"path": "/dir/a", "content": ""},
        {"path": "/other/a", "content": ""}, {"op": "move", "path": "/dir/b", "from": "/secret"}]});
    let reply = as_token(&server, &token, Method::POST, "/fs/bulk", &files).await.expect(202);
    assert_eq!(column(&reply["results"], "path"), ["/dir/a"]);
    assert_eq!(column(&reply["errors"], "code"), ["forbidden"; 3]);
    let get =
        async |rest: &str| as_token(&server, &token, Method::GET, rest, &json!({})).await.status;
    assert_eq!(get("/fs/file?path=/dir/a").await, 200);
    assert_eq!(get("/fs/file?path=dir/a").await, 403);
    assert_eq!(get("/fs/tree?path=/dir").await, 200);
    assert_eq!(get("/fs/tree").await, 403);
    assert_eq!(get("/fs/events").await, 403);
    assert_eq!(get("/fs/ws").await, 403);
    // Allowed by the filter; refused only because this is no upgrade request.
    assert_eq!(get("/fs/ws?path=/dir/**").await, 400);
}
