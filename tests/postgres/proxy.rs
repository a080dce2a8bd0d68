//! A TCP proxy that loses what passes through it at the worst moment.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What to do with the commits that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    Pass,
    /// The server hears of it, the client hears nothing any more.
    CutAfter,
    /// The server does not hear of it.
    CutBefore,
    /// The answer takes its time.
    Hold(Duration),
}

pub struct Proxy {
    /// Of the database behind it.
    pub url: String,
    plan: Arc<Mutex<Plan>>,
}

struct Plan {
    commits: Commits,
    /// One in so many commits is troubled.
    every: u64,
    passed: u64,
    troubled: u64,
}

impl Proxy {
    /// One before the server of a database.
    pub async fn before(url: &str) -> Self {
        let (address, database) = url.rsplit_once('/').expect("a URL with a database");
        let (host, server) = address.rsplit_once(':').expect("a URL with a port");
        let server = server.parse().expect("a port");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let plan = Arc::new(Mutex::new(Plan { commits: Commits::Pass, every: 1, passed: 0, troubled: 0 }));
        let shared = plan.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server, shared.clone()));
            }
        });
        Proxy { url: format!("{host}:{port}/{database}"), plan }
    }

    /// From now on does this to one in `every` commits.
    pub fn plan(&self, commits: Commits, every: u64) {
        let mut plan = self.plan.lock();
        (plan.commits, plan.every) = (commits, every);
    }

    pub fn troubled(&self) -> u64 {
        self.plan.lock().troubled
    }
}

async fn relay(client: TcpStream, server: u16, plan: Arc<Mutex<Plan>>) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server)).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (hold, mut held) = tokio::sync::watch::channel(None::<tokio::time::Instant>);
    let answers = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = from_server.read(&mut buffer).await?;
            let until = *held.borrow_and_update();
            if let Some(until) = until {
                tokio::time::sleep_until(until).await;
            }
            if length == 0 {
                return std::io::Result::Ok(());
            }
            to_client.write_all(&buffer[..length]).await?;
        }
    });
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = from_client.read(&mut buffer).await?;
        if length == 0 {
            break;
        }
        let sent = &buffer[..length];
        let commits = sent.windows(7).any(|window| window == b"COMMIT\0");
        match if commits { next(&plan) } else { Commits::Pass } {
            Commits::Pass => to_server.write_all(sent).await?,
            Commits::CutAfter => {
                answers.abort();
                let _ = answers.await;
                to_server.write_all(sent).await?;
                drop(from_client);
                // The server has its time to do what it heard.
                tokio::time::sleep(Duration::from_millis(50)).await;
                return Ok(());
            }
            Commits::CutBefore => {
                answers.abort();
                return Ok(());
            }
            Commits::Hold(time) => {
                let _ = hold.send(Some(tokio::time::Instant::now() + time));
                to_server.write_all(sent).await?;
            }
        }
    }
    answers.abort();
    Ok(())
}

fn next(plan: &Mutex<Plan>) -> Commits {
    let mut plan = plan.lock();
    if plan.commits == Commits::Pass {
        return Commits::Pass;
    }
    plan.passed += 1;
    if !plan.passed.is_multiple_of(plan.every) {
        return Commits::Pass;
    }
    plan.troubled += 1;
    plan.commits
}
