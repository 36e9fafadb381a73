//! A change stream on its way: frames that come twice, late, or not at all.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Shared;
use super::message::Stream;
use crate::story::Trouble;

/// Passes a WebSocket in both directions until it ends.
pub(super) async fn relay(shared: &Arc<Shared>, client: &mut Stream, mut server: Stream) {
    let (early_client, client) = client.split();
    let (early_server, server) = server.split();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        if to_server.write_all(early_client).await.is_err() {
            return;
        }
        let mut buffer = vec![0; 4096];
        loop {
            match from_client.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => {
                    if to_server.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let down = async {
        let mut read = std::mem::take(early_server);
        let mut held: Option<Vec<u8>> = None;
        loop {
            while let Some(length) = frame_length(&read) {
                let rest = read.split_off(length);
                let frame = std::mem::replace(&mut read, rest);
                let Some(frames) = passing(shared, frame, &mut held).await else { return };
                for frame in frames {
                    if to_client.write_all(&frame).await.is_err() {
                        return;
                    }
                }
            }
            // A frame that waits for its neighbour does not wait for ever.
            let patience = Duration::from_millis(if held.is_some() { 200 } else { 3_600_000 });
            match tokio::time::timeout(patience, from_server.read_buf(&mut read)).await {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(_)) => {}
                Err(_elapsed) => {
                    if let Some(frame) = held.take()
                        && to_client.write_all(&frame).await.is_err()
                    {
                        return;
                    }
                }
            }
        }
    };
    tokio::select! { () = up => {}, () = down => {} }
}

/// What is passed on when a frame arrives. `None` cuts the stream.
async fn passing(
    shared: &Arc<Shared>,
    frame: Vec<u8>,
    held: &mut Option<Vec<u8>>,
) -> Option<Vec<Vec<u8>>> {
    if shared.silent() {
        shared.wait_until(|shared| !shared.silent()).await;
        return None;
    }
    // Only whole text frames are events.
    if frame[0] != 0x81 {
        return Some(vec![frame]);
    }
    if let Some(earlier) = held.take() {
        return Some(vec![frame, earlier]);
    }
    let concerns = |trouble| {
        matches!(
            trouble,
            Trouble::EventsTwice { .. }
                | Trouble::EventsSwapped { .. }
                | Trouble::EventsLost { .. }
                | Trouble::StreamCut { .. }
        )
    };
    Some(match shared.strike(concerns) {
        Some(Trouble::EventsTwice { .. }) => vec![frame.clone(), frame],
        Some(Trouble::EventsSwapped { .. }) => {
            *held = Some(frame);
            Vec::new()
        }
        Some(Trouble::EventsLost { .. }) => Vec::new(),
        Some(Trouble::StreamCut { .. }) => return None,
        _ => vec![frame],
    })
}

/// How long the first frame is, once its head is here and all of it is.
fn frame_length(read: &[u8]) -> Option<usize> {
    let second = *read.get(1)?;
    let (head, payload) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(read.get(2..4)?.try_into().ok()?))),
        127 => {
            let length = u64::from_be_bytes(read.get(2..10)?.try_into().ok()?);
            (10, usize::try_from(length).ok()?)
        }
        short => (2, usize::from(short)),
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let length = head + mask + payload;
    (read.len() >= length).then_some(length)
}
