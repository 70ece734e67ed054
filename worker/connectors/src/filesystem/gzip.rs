//! Unzipping as `gzip -t` judges: several members one behind another are one file, zeros behind the last are padding, and
//! anything else that is not a member is a fault.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// The members of a file, as one reader.
pub(super) struct Members<R> {
    state: State<R>,
}

enum State<R> {
    Member(GzDecoder<R>),
    /// Behind a member.
    Between(R),
    End,
}

impl<R: BufRead> Members<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { state: State::Member(GzDecoder::new(reader)) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.state {
                State::Member(member) => {
                    let read = member.read(buffer)?;
                    if read > 0 {
                        return Ok(read);
                    }
                }
                State::Between(reader) => {
                    let ahead = reader.fill_buf()?;
                    if ahead.first() == Some(&0) {
                        skip_padding(reader)?;
                        self.state = State::End;
                        return Ok(0);
                    }
                    if ahead.is_empty() {
                        self.state = State::End;
                        return Ok(0);
                    }
                }
                State::End => return Ok(0),
            }
            self.state = match std::mem::replace(&mut self.state, State::End) {
                State::Member(member) => State::Between(member.into_inner()),
                State::Between(reader) => State::Member(GzDecoder::new(reader)),
                State::End => State::End,
            };
        }
    }
}

/// To the end of the file.
fn skip_padding(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let ahead = reader.fill_buf()?;
        if ahead.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "there is more behind the last member"));
        }
        match ahead.len() {
            0 => return Ok(()),
            zeros => reader.consume(zeros),
        }
    }
}
