//! What batches of records are packed with.

use std::io::{self, Read, Write};

use bytes::Bytes;

use crate::error::KafkaError;

/// The largest batch, unpacked. A broker takes some megabytes a batch; this bounds what a few packed bytes can make us hold.
pub(crate) const MAX_UNPACKED: usize = 256 << 20;

/// Before the blocks of Snappy that Java's clients write, with two version numbers.
const SNAPPY_MAGIC: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// So much goes into one block of Snappy.
const SNAPPY_BLOCK: usize = 32 << 10;

/// How a batch's records are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy, in blocks as Java's clients write it.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// As the property `compression.type` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| compression.name() == name)
    }

    /// The lowest three bits of a batch's attributes.
    pub(crate) const fn bits(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    pub(crate) fn of_bits(attributes: i16) -> Result<Self, KafkaError> {
        let unknown = || KafkaError::corrupt(format!("a batch is packed with an unknown method ({})", attributes & 7));
        Self::ALL.into_iter().find(|compression| compression.bits() == attributes & 7).ok_or_else(unknown)
    }

    /// Packs the records of a batch.
    pub(crate) fn pack(self, records: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(records.to_vec()),
            Self::Gzip => {
                let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                to.write_all(records)?;
                to.finish()
            }
            Self::Snappy => pack_snappy(records),
            Self::Lz4 => {
                let mut to = lz4_flex::frame::FrameEncoder::new(Vec::new());
                to.write_all(records)?;
                to.finish().map_err(io::Error::other)
            }
            Self::Zstd => zstd::bulk::compress(records, zstd::DEFAULT_COMPRESSION_LEVEL),
        }
    }

    /// Unpacks the records of a batch.
    pub(crate) fn unpack(self, packed: Bytes) -> Result<Bytes, KafkaError> {
        let unpacked = match self {
            Self::None => return Ok(packed),
            Self::Gzip => all_of(flate2::read::MultiGzDecoder::new(&packed[..])),
            Self::Snappy => unpack_snappy(&packed),
            Self::Lz4 => all_of(lz4_flex::frame::FrameDecoder::new(&packed[..])),
            Self::Zstd => zstd::stream::read::Decoder::with_buffer(&packed[..]).and_then(all_of),
        };
        let failed =
            |error| KafkaError::corrupt(format!("a batch packed with {} cannot be read: {error}", self.name()));
        unpacked.map(Bytes::from).map_err(failed)
    }
}

fn too_large() -> io::Error {
    io::Error::other(format!("it is larger than {} MiB unpacked", MAX_UNPACKED >> 20))
}

fn all_of(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_UNPACKED as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_UNPACKED { Err(too_large()) } else { Ok(bytes) }
}

fn pack_snappy(records: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = SNAPPY_MAGIC.to_vec();
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(SNAPPY_BLOCK) {
        let block = encoder.compress_vec(block).map_err(io::Error::other)?;
        packed.extend_from_slice(&u32::try_from(block.len()).map_err(io::Error::other)?.to_be_bytes());
        packed.extend_from_slice(&block);
    }
    Ok(packed)
}

/// In blocks behind a header, as most clients write it, or bare.
fn unpack_snappy(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    if !packed.starts_with(&SNAPPY_MAGIC[..8]) {
        unpack_block(packed, &mut unpacked)?;
        return Ok(unpacked);
    }
    let mut rest = packed.get(SNAPPY_MAGIC.len()..).ok_or_else(cut_short)?;
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(cut_short)?;
        let length = u32::from_be_bytes(*length) as usize;
        let block = behind.get(..length).ok_or_else(cut_short)?;
        unpack_block(block, &mut unpacked)?;
        rest = &behind[length..];
    }
    Ok(unpacked)
}

fn unpack_block(block: &[u8], to: &mut Vec<u8>) -> io::Result<()> {
    let length = snap::raw::decompress_len(block).map_err(io::Error::other)?;
    if length > MAX_UNPACKED - to.len() {
        return Err(too_large());
    }
    let start = to.len();
    to.resize(start + length, 0);
    snap::raw::Decoder::new().decompress(block, &mut to[start..]).map_err(io::Error::other)?;
    Ok(())
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut short")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked_again(records in proptest::collection::vec(0u8..4, 0..100_000)) {
            for compression in Compression::ALL {
                let packed = compression.pack(&records).unwrap();
                prop_assert_eq!(&compression.unpack(packed.into()).unwrap()[..], &records[..]);
            }
        }

        #[test]
        fn bytes_that_nobody_packed_are_an_error_and_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for compression in Compression::ALL {
                let mut packed = compression.pack(b"some text, some text").unwrap();
                packed.extend_from_slice(&bytes);
                drop(compression.unpack(bytes.clone().into()));
                drop(compression.unpack(packed.into()));
            }
        }
    }

    #[test]
    fn a_bare_block_of_snappy_is_read_too() {
        let packed = snap::raw::Encoder::new().compress_vec(b"bare").unwrap();
        assert_eq!(Compression::Snappy.unpack(packed.into()).unwrap(), "bare");
    }

    #[test]
    fn a_batch_that_would_grow_beyond_the_bound_is_refused() {
        let zeros = vec![0; MAX_UNPACKED + 1];
        for compression in [Compression::Gzip, Compression::Lz4, Compression::Zstd, Compression::Snappy] {
            let packed = compression.pack(&zeros).unwrap();
            let error = compression.unpack(packed.into()).unwrap_err().to_string();
            assert!(error.contains("256 MiB"), "{error}");
        }
    }
}
