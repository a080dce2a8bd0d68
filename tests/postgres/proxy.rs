//! A TCP proxy that loses what passes through it at the worst moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What to do with the transactions that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// The server hears of COMMIT, the client hears nothing any more.
    CutAfter,
    /// The server does not hear of COMMIT.
    CutBefore,
    /// The answer to COMMIT takes its time.
    Hold(Duration),
    /// BEGIN fails, as if somebody had cancelled just that, and what was sent behind it is heard.
    CancelBegin,
}

impl Trouble {
    /// Whether these bytes are what it waits for: a batch's COMMIT, not that of a single statement, which goes with its BEGIN and is short.
    fn is_due(self, sent: &[u8]) -> bool {
        let begins = find(sent, BEGIN).is_some();
        match self {
            Trouble::None => false,
            Trouble::CancelBegin => begins,
            _ => find(sent, b"COMMIT\0").is_some() && !(begins && sent.len() < 512),
        }
    }
}

const BEGIN: &[u8] = b"BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE\0";

/// What a statement says that is cancelled; as long as BEGIN, with blanks behind it.
const CANCELLED: &[u8] = b"DO $$BEGIN RAISE SQLSTATE '57014';END$$";

pub struct Proxy {
    /// Of the database behind it.
    pub url: String,
    plan: Arc<Mutex<Plan>>,
    /// The port of the server that new connections get to.
    server: Arc<AtomicU16>,
    /// How long they take to get there.
    way: Arc<Mutex<Duration>>,
}

struct Plan {
    trouble: Trouble,
    /// One in so many is troubled.
    every: u64,
    passed: u64,
    troubled: u64,
}

impl Proxy {
    /// One before the server of a database.
    pub async fn before(url: &str) -> Self {
        let (address, database) = url.rsplit_once('/').expect("a URL with a database");
        let (host, server) = address.rsplit_once(':').expect("a URL with a port");
        let server = Arc::new(AtomicU16::new(server.parse().expect("a port")));
        let (target, way) = (server.clone(), Arc::<Mutex<Duration>>::default());
        let slow = way.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let plan = Arc::new(Mutex::new(Plan { trouble: Trouble::None, every: 1, passed: 0, troubled: 0 }));
        let shared = plan.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, shared, way) = (target.load(Ordering::Relaxed), shared.clone(), *slow.lock());
                tokio::spawn(async move {
                    tokio::time::sleep(way).await;
                    relay(client, target, shared).await
                });
            }
        });
        Proxy { url: format!("{host}:{port}/{database}"), plan, server, way }
    }

    /// From now on does this to one in `every` transactions.
    pub fn plan(&self, trouble: Trouble, every: u64) {
        let mut plan = self.plan.lock();
        (plan.trouble, plan.every) = (trouble, every);
    }

    /// Leads new connections to another server, as a name does that was moved. Those that are there stay.
    pub fn lead_to(&self, server: u16) {
        self.server.store(server, Ordering::Relaxed);
    }

    /// New connections take so long.
    pub fn slow_down(&self, way: Duration) {
        *self.way.lock() = way;
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
        let sent = &mut buffer[..length];
        match next(&plan, sent) {
            Trouble::None => to_server.write_all(sent).await?,
            Trouble::CutAfter => {
                answers.abort();
                let _ = answers.await;
                to_server.write_all(sent).await?;
                drop(from_client);
                // The server has its time to do what it heard.
                tokio::time::sleep(Duration::from_millis(50)).await;
                return Ok(());
            }
            Trouble::CutBefore => {
                answers.abort();
                return Ok(());
            }
            Trouble::Hold(time) => {
                let _ = hold.send(Some(tokio::time::Instant::now() + time));
                to_server.write_all(sent).await?;
            }
            Trouble::CancelBegin => {
                let at = find(sent, BEGIN).expect("there is one");
                let (cancelled, blanks) = sent[at..at + BEGIN.len() - 1].split_at_mut(CANCELLED.len());
                cancelled.copy_from_slice(CANCELLED);
                blanks.fill(b' ');
                to_server.write_all(sent).await?;
            }
        }
    }
    answers.abort();
    Ok(())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// What to do with these bytes.
fn next(plan: &Mutex<Plan>, sent: &[u8]) -> Trouble {
    let mut plan = plan.lock();
    if !plan.trouble.is_due(sent) {
        return Trouble::None;
    }
    plan.passed += 1;
    // Scattered: else what comes in a rhythm, as three transactions a batch, meets it always or never.
    let scattered = plan.passed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    if !scattered.is_multiple_of(plan.every) {
        return Trouble::None;
    }
    plan.troubled += 1;
    plan.trouble
}
