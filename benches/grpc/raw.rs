//! Batches as bytes: what is sent was encoded before, and of an answer only what is in it is counted.

use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use equipoise::AccountId;
use prost::bytes::{Buf, BufMut, Bytes};

use crate::workload::transaction_id;

/// What an answer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub results: usize,
    pub refused: usize,
}

/// An ExecuteBatchRequest in the protobuf encoding, put together piece by piece.
#[derive(Default)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Moves one unit.
    pub fn push(&mut self, from: &AccountId, to: &AccountId, id: u64) {
        let id = transaction_id(id);
        let texts = [(1, from.as_str()), (2, to.as_str()), (4, id.as_str())];
        let transfer = texts.iter().map(|(_, text)| 2 + text.len()).sum::<usize>() + 2;
        // Field 1 of the request, then field 3 of the operation; everything is shorter than 128 bytes.
        self.bytes.extend([0x0a, (transfer + 2) as u8, 0x1a, transfer as u8]);
        for (field, text) in texts {
            if field == 4 {
                self.bytes.extend([3 << 3, 1]);
            }
            self.bytes.extend([field << 3 | 2, text.len() as u8]);
            self.bytes.extend_from_slice(text.as_bytes());
        }
    }

    pub fn finish(self) -> Bytes {
        self.bytes.into()
    }
}

#[derive(Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Counted;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.reserve(message.len());
        into.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Counted;
    type Error = Status;

    /// A result that is no success begins with its code, field 1.
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Counted>, Status> {
        let whole = from.copy_to_bytes(from.remaining());
        let (mut counted, mut rest) = (Counted::default(), &whole[..]);
        while let [0x0a, behind @ ..] = rest {
            let mut length = 0;
            let mut digits = 0;
            for byte in behind {
                length |= usize::from(byte & 0x7f) << (7 * digits);
                digits += 1;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let (result, after) = behind[digits..].split_at(length);
            counted.results += 1;
            counted.refused += usize::from(result.first() == Some(&0x08));
            rest = after;
        }
        assert!(rest.is_empty(), "an answer of results only");
        Ok(Some(counted))
    }
}
