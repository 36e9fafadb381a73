//! TLS is verified, for requests and for the stream alike, before anything is said.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use mountctl::api::ExitCode;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use crate::fuse_or_skip;
use crate::support::observe::{outbox, stderr, wait_sent, wait_state};
use crate::support::proxy::Proxy;
use crate::support::server::WORKSPACE;
use crate::support::{Mount, TestServer, wait_for};

/// Somebody who signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// What a server for `host` needs, valid in these years.
    fn server(&self, host: &str, (from, to): (i32, i32)) -> ServerConfig {
        let params = params(host, (from, to));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        config(certificate.der().clone(), &key)
    }
}

fn params(host: &str, (from, to): (i32, i32)) -> CertificateParams {
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params
}

fn config(certificate: CertificateDer<'static>, key: &KeyPair) -> ServerConfig {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap()
}

const VALID: (i32, i32) = (2020, 2100);

/// A certificate authority of one's own, in a file that the environment names.
fn trusted(authority: &Authority) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, &authority.pem).unwrap();
    (folder, file)
}

fn source(proxy: &Proxy) -> String {
    format!("https://localhost:{}/{WORKSPACE}", proxy.addr().port())
}

/// A server with a certificate of an authority that `SSL_CERT_FILE` names is trusted, for requests
/// and the stream. One that signed itself, whose time is over or has not come, that is for another
/// host, or of an authority that nobody named is not: nothing is said to it, and the status says
/// why. When the right one is back, work resumes.
#[test]
fn only_a_certificate_that_holds_is_spoken_to() {
    fuse_or_skip!();
    let authority = Authority::new();
    let (_folder, file) = trusted(&authority);
    let server = TestServer::new();
    let proxy = Proxy::of(&server);
    proxy.tls(authority.server("localhost", VALID));
    let mut mount = Mount::builder(&source(&proxy)).prepare();
    mount.add_env("SSL_CERT_FILE", file.to_str().unwrap());
    mount.start();
    mount.wait_synced();
    assert_eq!(mount.status()["stream"]["mode"], "websocket", "{:#}", mount.status());
    fs::write(mount.at("first"), "first").unwrap();
    mount.flush();
    server.put("/theirs", b"pushed");
    wait_for("the push", || fs::read(mount.at("theirs")).ok());

    let own = KeyPair::generate().unwrap();
    let itself = params("localhost", VALID).self_signed(&own).unwrap();
    let needs_client = {
        let mut roots = tokio_rustls::rustls::RootCertStore::empty();
        let key = KeyPair::generate().unwrap();
        roots.add(params("ca", VALID).self_signed(&key).unwrap().der().clone()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params("localhost", VALID).signed_by(&key, &authority.issuer).unwrap();
        let key_der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        ServerConfig::builder()
            .with_client_cert_verifier(
                WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap(),
            )
            .with_single_cert(vec![certificate.der().clone()], key_der)
            .unwrap()
    };
    for (n, (what, bad, is_ours)) in [
        ("signed by itself", config(itself.der().clone(), &own), true),
        ("over", authority.server("localhost", (2000, 2001)), true),
        ("to come", authority.server("localhost", (2098, 2100)), true),
        ("another host", authority.server("elsewhere.example", VALID), true),
        ("another authority", Authority::new().server("localhost", VALID), true),
        // Refused by the server rather than by us.
        ("asks for ours", needs_client, false),
    ]
    .into_iter()
    .enumerate()
    {
        proxy.tls(bad);
        let heard = proxy.heads().len();
        let name = format!("file-{n}");
        fs::write(mount.at(&name), what).unwrap();
        mount.ctl(&["resume"]);
        let status = wait_state(&mount, "offline");
        if is_ours {
            let reason = wait_for("the reason", || {
                let reason = mount.status()["retry"]["reason"].as_str().unwrap_or("").to_owned();
                reason.contains("TLS: ").then_some(reason)
            });
            eprintln!("{what}: {reason}");
            assert!(reason.contains("certificate"), "{reason}");
        }
        wait_for("the stream is down", || {
            (mount.status()["stream"]["mode"] != "websocket"
                || mount.status()["stream"]["status"] != "live")
                .then_some(())
        });
        mount.ctl(&["resume"]);
        assert_eq!(outbox(&mount).len(), 1, "{status:#}");
        // Reading what is here goes on.
        assert_eq!(fs::read(mount.at("first")).unwrap(), b"first");
        assert_eq!(proxy.heads().len(), heard, "{what}: something was said");
        proxy.tls(authority.server("localhost", VALID));
        mount.ctl(&["resume"]);
        wait_sent(&mount);
        mount.wait_synced();
        assert_eq!(server.get(&format!("/{name}")).unwrap().0, what.as_bytes());
    }
}

/// Without being told of its authority, a first mount of such a server fails and says why; nothing
/// switches the verification off, `--insecure-http` neither.
#[test]
fn an_unknown_authority_is_refused_at_the_start() {
    fuse_or_skip!();
    let authority = Authority::new();
    let (_folder, file) = trusted(&authority);
    let server = TestServer::new();
    let proxy = Proxy::of(&server);
    proxy.tls(Authority::new().server("localhost", VALID));
    let mut mount = Mount::builder(&source(&proxy)).prepare();
    for insecure in [&[][..], &["--insecure-http"]] {
        let mut command = mount.command(insecure);
        let output = command.env("SSL_CERT_FILE", &file).output().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(ExitCode::Server.number())));
        let said = stderr(&output);
        assert!(said.contains("TLS: ") && said.contains("certificate"), "{said}");
        assert!(said.contains("SSL_CERT_FILE"), "{said}");
    }
    assert!(proxy.heads().is_empty(), "something was said");
    proxy.tls(authority.server("localhost", VALID));
    mount.add_env("SSL_CERT_FILE", file.to_str().unwrap());
    mount.start();
    mount.wait_synced();
}
