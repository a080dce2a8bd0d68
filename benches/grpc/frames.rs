//! A client that costs little: HTTP/2 frames put together by hand, one thread a connection. A tonic client takes more of the
//! processor a call than the services it measures.
//!
//! It knows what a service sends to a well-behaved client, and panics on anything else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use equipoise::AccountId;
use equipoise::grpc::proto::TransferFundsRequest;
use prost::Message;

use crate::workload::{Latencies, Random};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// Of DATA and HEADERS.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Of SETTINGS and PING.
const ACK: u8 = 1;

const HEADER: usize = 9;

/// Transfers over one connection, `under_way` at a time, until `stop`: how many, and how long each took. Ids are the numbers from
/// `first_id` on.
pub fn transfers(
    address: &str,
    under_way: u64,
    ids: &[AccountId],
    first_id: u64,
    stop: &Arc<AtomicBool>,
) -> (u64, Latencies) {
    let mut connection = Connection::open(address);
    let mut random = Random::new(first_id);
    let mut next_id = first_id;
    // The answers of one connection mostly come in the order of its calls.
    let mut waiting: Vec<Waiting> = Vec::new();
    let (mut done, mut latencies) = (0, Latencies::default());
    let mut stopped = false;
    loop {
        while !stopped && (waiting.len() as u64) < under_way {
            let (from, to) = random.pair(ids.len());
            let request = TransferFundsRequest {
                from_account_id: ids[from].to_string(),
                to_account_id: ids[to].to_string(),
                amount: 1,
                transaction_id: next_id.to_string(),
            };
            next_id += 1;
            let stream = connection.call(&request);
            waiting.push(Waiting { stream, began: Instant::now(), answered: false });
        }
        if waiting.is_empty() {
            return (done, latencies);
        }
        connection.flush();
        connection.read(|kind, flags, stream| {
            let Some(place) = waiting.iter().position(|call| call.stream == stream) else {
                panic!("frame {kind} of stream {stream}, which asked for nothing")
            };
            waiting[place].answered |= kind == DATA;
            if flags & END_STREAM != 0 {
                let call = waiting.swap_remove(place);
                assert!(call.answered, "a transfer was refused");
                latencies.record(call.began.elapsed());
                done += 1;
            }
        });
        stopped = stop.load(Ordering::Relaxed);
    }
}

struct Waiting {
    stream: u32,
    began: Instant,
    answered: bool,
}

struct Connection {
    socket: TcpStream,
    out: Vec<u8>,
    /// What came and is not a whole frame yet.
    come: Vec<u8>,
    headers: Vec<u8>,
    next_stream: u32,
}

impl Connection {
    fn open(address: &str) -> Self {
        let socket = TcpStream::connect(address).expect("a connection");
        socket.set_nodelay(true).expect("TCP");
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut out, SETTINGS, 0, 0, &[]);
        frame(&mut out, WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
        Connection { socket, out, come: Vec::new(), headers: headers(address), next_stream: 1 }
    }

    fn call(&mut self, request: &TransferFundsRequest) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        frame(&mut self.out, HEADERS, END_HEADERS, stream, &self.headers);
        let length = request.encoded_len();
        frame_header(&mut self.out, length + 5, DATA, END_STREAM, stream);
        self.out.push(0);
        self.out.extend_from_slice(&(length as u32).to_be_bytes());
        request.encode(&mut self.out).expect("room");
        stream
    }

    fn flush(&mut self) {
        self.socket.write_all(&self.out).expect("an open connection");
        self.out.clear();
    }

    /// Waits for bytes, and shows the frames of calls among them.
    fn read(&mut self, mut each: impl FnMut(u8, u8, u32)) {
        let kept = self.come.len();
        self.come.resize(kept + 65_536, 0);
        let read = self.socket.read(&mut self.come[kept..]).expect("an open connection");
        assert_ne!(read, 0, "the service closed the connection");
        self.come.truncate(kept + read);
        let mut at = 0;
        while let Some(header) = self.come.get(at..at + HEADER) {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let (kind, flags) = (header[3], header[4]);
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            let Some(body) = self.come.get(at + HEADER..at + HEADER + length) else { break };
            match kind {
                DATA | HEADERS => each(kind, flags, stream),
                SETTINGS if flags & ACK == 0 => frame(&mut self.out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, body),
                RST_STREAM | GOAWAY => panic!("frame {kind} of stream {stream}: {body:?}"),
                // Requests are far smaller than what the service lets in at once.
                _ => {}
            }
            at += HEADER + length;
        }
        self.come.drain(..at);
    }
}

/// The header block of every call: nothing enters the dynamic table, so it is the same each time.
fn headers(authority: &str) -> Vec<u8> {
    // The static table's :method POST and :scheme http.
    let mut block = vec![0x80 | 3, 0x80 | 6];
    let mut literal = |name: u8, value: &str| {
        // Without indexing; names from 15 on need a second byte.
        if name < 15 {
            block.push(name)
        } else {
            block.extend([15, name - 15])
        }
        block.push(u8::try_from(value.len()).expect("a short value"));
        block.extend_from_slice(value.as_bytes());
    };
    literal(4, "/equipoise.v1.AccountService/TransferFunds");
    literal(1, authority);
    literal(31, "application/grpc");
    block.extend_from_slice(b"\x00\x02te\x08trailers");
    block
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    frame_header(out, body.len(), kind, flags, stream);
    out.extend_from_slice(body);
}

fn frame_header(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}
