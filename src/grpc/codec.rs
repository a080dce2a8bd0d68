//! Codecs between bytes and messages: prost's messages, and the types that a batch has in their place.

use std::marker::PhantomData;

use prost::{DecodeError, Message};
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// The initial size of a call's buffers, in bytes: most messages fit, and a longer one grows its buffer at once.
const BUFFER: usize = 512;
/// A stream's messages are sent together up to this many bytes.
const SENT_TOGETHER: usize = 32 * 1024;

/// What can be read from a message's bytes.
pub(super) trait Decodes: Sized {
    /// Takes all of `from`.
    ///
    /// # Errors
    /// The bytes are not such a message.
    fn take(from: &mut DecodeBuf<'_>) -> Result<Self, DecodeError>;
}

/// What can be written as a message's bytes.
pub(super) trait Encodes {
    fn put(self, into: &mut EncodeBuf<'_>);
}

impl<M: Message + Default> Decodes for M {
    fn take(from: &mut DecodeBuf<'_>) -> Result<Self, DecodeError> {
        Message::decode(from)
    }
}

impl<M: Message> Encodes for M {
    fn put(self, into: &mut EncodeBuf<'_>) {
        // At once: growing, a buffer has up to twice the size, and leaves others behind.
        into.reserve(self.encoded_len());
        self.encode_raw(into);
    }
}

/// Reads `D`, writes `E`.
pub(super) struct Codec<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for Codec<E, D> {
    fn default() -> Self {
        Codec(PhantomData)
    }
}

impl<E: Encodes + Send + 'static, D: Decodes + Send + 'static> tonic::codec::Codec for Codec<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Codec::default()
    }

    fn decoder(&mut self) -> Self {
        Codec::default()
    }
}

impl<E: Encodes, D> Encoder for Codec<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, message: E, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.put(into);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, SENT_TOGETHER)
    }
}

impl<E, D: Decodes> Decoder for Codec<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        // The code of tonic's own codec; `super::call` tells it in the contract's.
        D::take(from).map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, SENT_TOGETHER)
    }
}
