//! The way from an instance to a server, which can be cut.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Whole,
    /// Nothing arrives, and nobody is told; later it arrives.
    Silent,
    /// Connections end, those that are there and those that are tried.
    Broken,
}

pub struct Line {
    /// Where it begins.
    pub port: u16,
    state: watch::Sender<State>,
}

impl Line {
    /// From `port`, or any if that is 0, to the server at another one.
    pub async fn new(port: u16, server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (state, seen) = watch::channel(State::Whole);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server, seen.clone()));
            }
        });
        Line { port, state }
    }

    pub fn becomes(&self, state: State) {
        self.state.send_replace(state);
    }
}

/// Until one of the two ends it, or the line is broken.
async fn relay(client: TcpStream, server: u16, state: watch::Receiver<State>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = pass(from_client, to_server, state.clone()) => {}
        _ = pass(from_server, to_client, state) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) -> Option<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = tokio::select! {
            length = from.read(&mut buffer) => length.ok()?,
            _ = state.wait_for(|state| *state == State::Broken) => return None,
        };
        let state = *state.wait_for(|state| *state != State::Silent).await.ok()?;
        if length == 0 || state == State::Broken {
            return None;
        }
        to.write_all(&buffer[..length]).await.ok()?;
    }
}
