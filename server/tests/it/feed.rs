//! `/fs/events` and `/fs/ws`.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{Running, TOKEN, column, config, run, start, start_with};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(server: &Running, rest: &str) -> Socket {
    let url = server.url(&format!("/fs/ws?token={TOKEN}{rest}")).replace("http", "ws");
    connect_async(url).await.unwrap().0
}

async fn refused(server: &Running, rest: &str) -> u16 {
    let url = server.url(&format!("/fs/ws{rest}")).replace("http", "ws");
    match connect_async(url).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("{other:?}"),
    }
}

async fn next(socket: &mut Socket) -> Value {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Reads to the end and returns the close code and the event numbers seen before it.
async fn drain(socket: &mut Socket) -> (Option<u16>, Vec<u64>) {
    let mut seen = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Text(text) => {
                let event: Value = serde_json::from_str(&text).unwrap();
                seen.push(event["eventId"].as_str().unwrap()[4..].parse().unwrap());
            }
            Message::Close(frame) => return (frame.map(|frame| frame.code.into()), seen),
            _ => {}
        }
    }
    (None, seen)
}

#[tokio::test]
async fn events_are_numbered_without_holes_per_workspace() {
    let server = start().await;
    assert!(server.events("").await.is_empty());
    server.put("/a", "0", "1").await.expect(202);
    let other = server.request(reqwest::Method::PUT, "/fs/file?path=/o").build().unwrap();
    let url = other.url().as_str().replace("/ws/", "/other/");
    let put = server.client.put(url).bearer_auth(TOKEN).header("X-Correlation-Id", "c");
    put.header("If-Match", "0").json(&json!({"content": ""})).send().await.unwrap();
    server.write("/a", "2").await;
    server.delete("/a", "*").await.expect(202);
    let events = server.events("").await;
    let list = Value::Array(events.clone());
    assert_eq!(column(&list, "eventId"), ["evt_1", "evt_2", "evt_3"]);
    assert_eq!(column(&list, "type"), ["file.created", "file.updated", "file.deleted"]);
    assert_eq!(column(&list, "revision"), ["rev_1", "rev_3", "rev_4"]);
    assert_eq!(column(&list, "correlationId"), ["c1", "", "c1"]);
    assert_eq!(
        (&events[0]["origin"], &events[0]["provider"]),
        (&json!("agent_write"), &json!("a"))
    );
    assert_eq!(events[1]["byteSize"], 1);
    assert!(events[2].get("contentHash").is_none());
}

#[tokio::test]
async fn events_are_paged_in_both_directions() {
    let server = start().await;
    let file = |n: usize| json!({"path": format!("/p{}/f{n}", n % 2), "content": "x"});
    server.bulk((0..10).map(file).collect()).await;
    let page = async |rest: &str| {
        let page = server.get(&format!("/fs/events{rest}")).await.expect(200);
        (column(&page["events"], "eventId"), page["nextCursor"].as_str().map(str::to_owned))
    };
    let (ids, next) = page("?limit=4").await;
    assert_eq!((ids[3].as_str(), next.as_deref()), ("evt_4", Some("evt_4")));
    let (ids, next) = page("?limit=4&cursor=evt_8").await;
    assert_eq!(
        (ids.as_slice(), next),
        (["evt_9".to_owned(), "evt_10".to_owned()].as_slice(), None)
    );
    assert_eq!(page("?cursor=evt_10").await, (vec![], None));
    let (ids, next) = page("?direction=desc&limit=1").await;
    assert_eq!((ids[0].as_str(), next.as_deref()), ("evt_10", Some("evt_10")));
    let (ids, next) = page("?direction=desc&limit=5&cursor=evt_3").await;
    assert_eq!((ids, next), (vec!["evt_2".to_owned(), "evt_1".to_owned()], None));
    assert_eq!(page("?provider=p1").await.0.len(), 5);
    for cursor in ["evt_11", "evt_x", "nonsense", "evt_-1", "11"] {
        let reply = server.get(&format!("/fs/events?cursor={cursor}")).await;
        reply.fails(410, "cursor_unknown");
        assert_eq!(refused(&server, &format!("?token={TOKEN}&cursor={cursor}")).await, 410);
    }
}

#[tokio::test]
async fn old_events_are_dropped_and_their_cursors_refused() {
    let server = start_with(|config| config.events_max = 10).await;
    let file = |n: usize| json!({"path": format!("/f{n}"), "content": "x"});
    for n in 0..30 {
        server.bulk(json!([file(n)])).await;
    }
    let ids = column(&Value::Array(server.events("").await), "eventId");
    assert!((10..=11).contains(&ids.len()), "{ids:?}");
    assert_eq!(ids.last().unwrap(), "evt_30");
    server.get("/fs/events?cursor=evt_2").await.fails(410, "cursor_unknown");
    assert_eq!(server.events("?cursor=evt_25").await.len(), 5);
}

#[tokio::test]
async fn a_socket_shows_the_past_then_the_present() {
    let server = start().await;
    server.write("/a", "one").await;
    server.write("/a", "two").await;
    let mut socket = connect(&server, "&cursor=evt_0").await;
    let old = next(&mut socket).await;
    assert_eq!((&old["eventId"], old.get("content")), (&json!("evt_1"), None));
    let current = next(&mut socket).await;
    assert_eq!(
        (&current["content"], &current["inlineContent"], &current["contentType"]),
        (&json!("two"), &json!(true), &json!("text/markdown"))
    );
    server.bulk(json!([{"path": "/b", "content": "AAEC", "encoding": "base64"}])).await;
    let live = next(&mut socket).await;
    assert_eq!((&live["content"], &live["encoding"]), (&json!("AAEC"), &json!("base64")));
    server.delete("/b", "*").await.expect(202);
    assert_eq!(next(&mut socket).await["type"], "file.deleted");
    socket.send(Message::text("{\"type\":\"ping\"}")).await.unwrap();
    assert_eq!(next(&mut socket).await["type"], "pong");
    socket.send(Message::text("{\"type\":\"other\"}")).await.unwrap();
    socket.send(Message::text("not json")).await.unwrap();
    assert_eq!(drain(&mut socket).await.0, Some(1007));
}

#[tokio::test]
async fn a_socket_starts_where_it_is_told() {
    let server = start().await;
    let file = |n: usize| json!({"path": format!("/f{n}"), "content": "x"});
    server.bulk((0..150).map(file).collect()).await;
    let mut recent = connect(&server, "").await;
    assert_eq!(next(&mut recent).await["eventId"], "evt_51");
    let mut now = connect(&server, "&from=now").await;
    let mut filtered = connect(&server, "&from=now&path=/x/*&path=/y/**").await;
    for path in ["/x/1/2", "/x/1", "/y/1/2"] {
        server.write(path, "x").await;
    }
    assert_eq!(next(&mut now).await["eventId"], "evt_151");
    assert_eq!(next(&mut filtered).await["path"], "/x/1");
    assert_eq!(next(&mut filtered).await["path"], "/y/1/2");
}

#[tokio::test]
async fn a_socket_takes_its_token_from_the_query_or_the_header() {
    let server = start().await;
    assert_eq!(refused(&server, "").await, 401);
    assert_eq!(refused(&server, "?token=wrong").await, 401);
    let url = server.url("/fs/ws?from=now").replace("http", "ws");
    let mut request = url.into_client_request().unwrap();
    let bearer = format!("Bearer {TOKEN}").parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    let (mut socket, _) = connect_async(request).await.unwrap();
    server.write("/a", "x").await;
    assert_eq!(next(&mut socket).await["path"], "/a");
}

#[tokio::test]
async fn catching_up_while_others_write_loses_and_repeats_nothing() {
    let server = start().await;
    let file = |n: usize| json!({"path": format!("/f{n}"), "content": "x"});
    server.bulk((0..500).map(file).collect()).await;
    let writer = async {
        for n in 500..700 {
            server.bulk(json!([file(n)])).await;
        }
    };
    let reader = async {
        let mut socket = connect(&server, "&cursor=evt_0").await;
        for n in 1..=700 {
            assert_eq!(next(&mut socket).await["eventId"], format!("evt_{n}"));
        }
    };
    tokio::join!(writer, reader);
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_closed_after_a_contiguous_run() {
    let server = start().await;
    let mut socket = connect(&server, "&from=now").await;
    // Large enough that the sockets' own buffers cannot hold what is not read.
    let content = "x".repeat(20_000);
    let file = |n: usize| json!({"path": format!("/f{n}"), "content": content});
    for chunk in 0..200 {
        server.bulk((chunk * 45..(chunk + 1) * 45).map(file).collect()).await;
    }
    let (code, seen) = drain(&mut socket).await;
    assert_eq!(code, Some(1013));
    assert!(!seen.is_empty() && seen.len() < 9000, "{}", seen.len());
    assert!(seen.iter().enumerate().all(|(index, id)| *id == index as u64 + 1));
    let mut socket = connect(&server, &format!("&cursor=evt_{}", seen.len())).await;
    assert_eq!(next(&mut socket).await["eventId"], format!("evt_{}", seen.len() + 1));
}

#[tokio::test]
async fn feeds_are_closed_on_request_and_at_the_end() {
    let server = start().await;
    let mut first = connect(&server, "&from=now").await;
    let mut second = connect(&server, "&from=now").await;
    assert_eq!(server.feeds.open(), 2);
    server.feeds.disconnect_all();
    assert_eq!(drain(&mut first).await.0, Some(1001));
    assert_eq!(drain(&mut second).await.0, Some(1001));
    let mut third = connect(&server, "&from=now").await;
    let (_, end) = tokio::join!(server.stop(), drain(&mut third));
    assert_eq!(end.0, Some(1001));
}

#[tokio::test]
async fn an_aborted_server_releases_its_storage_although_feeds_were_open() {
    let mut server = start().await;
    let _socket = connect(&server, "&from=now").await;
    server.write("/a", "x").await;
    let folder = server.folder.take().unwrap();
    drop(server);
    let server = run(config(folder.path())).await;
    assert_eq!(server.paths().await, ["/a"]);
}
