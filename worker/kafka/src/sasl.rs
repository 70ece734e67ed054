//! Who we are: SASL's PLAIN, and SCRAM (RFC 5802) with SHA-256 and SHA-512.
//!
//! With SCRAM the password does not travel, and the broker proves that it knows it too: one that cannot is refused.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::rand::SecureRandom;
use ring::{digest, hmac, pbkdf2};

/// Brokers ask for 4,096 rounds unless told otherwise; more than this would only keep a processor busy.
const MOST_ROUNDS: u32 = 1_000_000;

/// How a password is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// In the clear.
    Plain,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// SCRAM-SHA-512.
    ScramSha512,
}

impl Mechanism {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::ScramSha256, Self::ScramSha512];

    /// As `sasl.mechanism` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// A user with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Sasl {
    /// How the password is shown.
    pub mechanism: Mechanism,
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sasl({}, {})", self.mechanism.name(), self.user)
    }
}

/// The one message of PLAIN.
pub(crate) fn plain(sasl: &Sasl) -> Vec<u8> {
    format!("\0{}\0{}", sasl.user, sasl.password).into_bytes()
}

/// A conversation of SCRAM. Errors are reasons, to be told with the broker's address.
pub(crate) struct Scram<'a> {
    sasl: &'a Sasl,
    nonce: String,
    server_signature: Vec<u8>,
}

impl<'a> Scram<'a> {
    pub(crate) fn new(sasl: &'a Sasl) -> Result<Self, String> {
        let mut random = [0u8; 24];
        ring::rand::SystemRandom::new().fill(&mut random).map_err(|_| "there are no random numbers".to_string())?;
        Ok(Self::with_nonce(sasl, BASE64_STANDARD.encode(random)))
    }

    const fn with_nonce(sasl: &'a Sasl, nonce: String) -> Self {
        Self { sasl, nonce, server_signature: Vec::new() }
    }

    fn first_bare(&self) -> String {
        format!("n={},r={}", self.sasl.user.replace('=', "=3D").replace(',', "=2C"), self.nonce)
    }

    pub(crate) fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first_bare()).into_bytes()
    }

    /// The answer to the broker's first message.
    pub(crate) fn proof(&mut self, server_first: &[u8]) -> Result<Vec<u8>, String> {
        let server_first = std::str::from_utf8(server_first).map_err(|_| "its challenge is no text".to_string())?;
        let field = |name: &str| server_first.split(',').find_map(|field| field.strip_prefix(name));
        let nonce = field("r=").filter(|nonce| nonce.starts_with(&self.nonce) && nonce.len() > self.nonce.len());
        let nonce = nonce.ok_or("its challenge is not for us")?;
        let salt = field("s=").and_then(|salt| BASE64_STANDARD.decode(salt).ok()).ok_or("its challenge has no salt")?;
        let rounds = field("i=").and_then(|rounds| rounds.parse().ok()).filter(|rounds| *rounds <= MOST_ROUNDS);
        let rounds = rounds.and_then(NonZeroU32::new).ok_or("its challenge has no usable number of rounds")?;

        let (hmac_with, pbkdf2_with, hash) = match self.sasl.mechanism {
            Mechanism::ScramSha512 => (hmac::HMAC_SHA512, pbkdf2::PBKDF2_HMAC_SHA512, &digest::SHA512),
            _ => (hmac::HMAC_SHA256, pbkdf2::PBKDF2_HMAC_SHA256, &digest::SHA256),
        };
        let mut salted = vec![0; hash.output_len()];
        pbkdf2::derive(pbkdf2_with, rounds, &salt, self.sasl.password.as_bytes(), &mut salted);
        let salted = hmac::Key::new(hmac_with, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(hash, client_key.as_ref());
        let without_proof = format!("c=biws,r={nonce}");
        let said = format!("{},{server_first},{without_proof}", self.first_bare());
        let signature = hmac::sign(&hmac::Key::new(hmac_with, stored_key.as_ref()), said.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, sign)| key ^ sign).collect();
        let server_key = hmac::sign(&salted, b"Server Key");
        let server_signature = hmac::sign(&hmac::Key::new(hmac_with, server_key.as_ref()), said.as_bytes());
        self.server_signature = server_signature.as_ref().to_vec();
        Ok(format!("{without_proof},p={}", BASE64_STANDARD.encode(proof)).into_bytes())
    }

    /// The broker has shown that it knows the password too.
    pub(crate) fn is_proved(&self, server_final: &[u8]) -> bool {
        let signature = std::str::from_utf8(server_final).ok();
        let signature = signature.and_then(|text| text.split(',').find_map(|field| field.strip_prefix("v=")));
        let signature = signature.and_then(|signature| BASE64_STANDARD.decode(signature).ok());
        !self.server_signature.is_empty() && signature.is_some_and(|signature| signature == self.server_signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(mechanism: Mechanism) -> Sasl {
        Sasl { mechanism, user: "user".to_string(), password: "pencil".to_string() }
    }

    /// The conversation that RFC 7677 gives as an example.
    #[test]
    fn a_conversation_is_the_one_of_the_standard() {
        let sasl = user(Mechanism::ScramSha256);
        let mut scram = Scram::with_nonce(&sasl, "rOprNGfwEbeRWgbNEkqO".to_string());
        assert_eq!(scram.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(
            String::from_utf8(scram.proof(challenge).unwrap()).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert!(scram.is_proved(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!scram.is_proved(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!scram.is_proved(b"e=invalid-proof"));
    }

    #[test]
    fn a_challenge_that_is_not_ours_or_asks_too_much_is_refused() {
        let sasl = user(Mechanism::ScramSha512);
        for challenge in [
            &b"r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"[..],
            b"r=mine,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            b"r=mine1,s=?,i=4096",
            b"r=mine1,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0",
            b"r=mine1,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4000000000",
            b"",
            b"\xff",
        ] {
            assert!(Scram::with_nonce(&sasl, "mine".to_string()).proof(challenge).is_err());
        }
        assert!(!Scram::with_nonce(&sasl, "mine".to_string()).is_proved(b"v="));
    }

    #[test]
    fn a_password_is_shown_in_no_message() {
        assert_eq!(format!("{:?}", user(Mechanism::Plain)), "Sasl(PLAIN, user)");
        assert_eq!(plain(&user(Mechanism::Plain)), b"\0user\0pencil");
    }
}
