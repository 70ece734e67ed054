//! A job's own certificate authority: what it consists of, when what of it is made anew (a pure decision on time), and the
//! making.
//!
//! Certificates are told apart by the job: no other job's worker can join an exchange. A new CA is made known a day before it
//! signs anything, and the old one is trusted a day longer, since pods see a changed Secret only after a while, each at
//! another time.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use weir_protocol::{
    ids::random_digits,
    tls::{CONTROLLER_NAME, WORKER_NAME},
};

const DAY: Duration = Duration::from_hours(24);
/// A CA lives so long.
const CA_LIFE: Duration = Duration::from_hours(10 * 365 * 24);
/// Its successor is made known so long before its end.
const CA_RENEW: Duration = Duration::from_hours(365 * 24);
/// A leaf lives so long.
const LEAF_LIFE: Duration = Duration::from_hours(90 * 24);
/// It is made anew so long before its end.
const LEAF_RENEW: Duration = Duration::from_hours(30 * 24);
/// Every pod has seen a changed Secret after this; kubelets take a minute or two.
const SPREAD: Duration = DAY;
/// Clocks differ.
const SKEW: Duration = Duration::from_mins(5);

/// Why a certificate could not be made.
#[derive(Debug, Error)]
#[error("the job's certificates cannot be made: {0}")]
pub struct CertError(#[from] rcgen::Error);

/// Seconds since the epoch.
pub type Seconds = u64;

/// All certificates and keys of one job.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// Signs.
    pub signer: Ca,
    /// Is made known, and signs from `known + SPREAD` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Ca>,
    /// Has signed, and is still trusted until `signer.since + SPREAD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Ca>,
    /// Of the workers.
    pub worker: Leaf,
    /// Of the controller.
    pub controller: Leaf,
}

/// A certificate authority.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ca {
    /// Its common name.
    pub name: String,
    /// PEM.
    pub cert: String,
    /// PEM.
    pub key: String,
    /// Since when it plays its part.
    pub since: Seconds,
    /// Its end.
    pub not_after: Seconds,
}

/// A certificate with its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leaf {
    /// PEM.
    pub cert: String,
    /// PEM.
    pub key: String,
    /// Its end.
    pub not_after: Seconds,
}

impl fmt::Debug for Authority {
    /// Keys appear in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("signer", &self.signer.name).finish_non_exhaustive()
    }
}

impl Authority {
    /// Everybody who is trusted.
    pub fn bundle(&self) -> String {
        let others = self.next.iter().chain(&self.previous).map(|ca| ca.cert.as_str());
        std::iter::once(self.signer.cert.as_str()).chain(others).collect()
    }
}

/// What is to be done about certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Nothing until then.
    None {
        /// When to look again.
        until: Seconds,
    },
    /// There are none that can be used.
    All,
    /// Make the next CA known.
    Announce,
    /// The next CA signs from now on.
    Promote,
    /// The previous CA is not trusted any more.
    Retire,
    /// The leaves are near their end.
    Leaves,
}

/// Decides, on time alone.
pub fn decide(authority: Option<&Authority>, now: Seconds) -> Renewal {
    let Some(authority) = authority else { return Renewal::All };
    let (signer, spread) = (&authority.signer, SPREAD.as_secs());
    if now >= signer.not_after {
        return Renewal::All;
    }
    if let Some(next) = &authority.next {
        if now >= next.since + spread {
            return Renewal::Promote;
        }
    } else if now + CA_RENEW.as_secs() >= signer.not_after {
        return Renewal::Announce;
    }
    if authority.previous.is_some() && now >= signer.since + spread {
        return Renewal::Retire;
    }
    let leaves_end = authority.worker.not_after.min(authority.controller.not_after);
    if now + LEAF_RENEW.as_secs() >= leaves_end {
        return Renewal::Leaves;
    }
    let next = authority.next.as_ref().map(|next| next.since + spread);
    let retire = authority.previous.as_ref().map(|_| signer.since + spread);
    let announce = signer.not_after.saturating_sub(CA_RENEW.as_secs());
    let until = next.into_iter().chain(retire).chain([announce, leaves_end - LEAF_RENEW.as_secs()]).min();
    Renewal::None { until: until.unwrap_or(now) }
}

/// Carries the decision out; `None` where nothing is to be done.
pub fn renew(
    authority: Option<&Authority>,
    job: &str,
    renewal: Renewal,
    now: Seconds,
) -> Result<Option<Authority>, CertError> {
    let fresh = |authority: Option<&Authority>| -> Result<Authority, CertError> {
        let signer = make_ca(job, now)?;
        let (worker, controller) = leaves(&signer, now)?;
        let previous = authority.filter(|authority| now < authority.signer.not_after).map(|old| old.signer.clone());
        Ok(Authority { signer, next: None, previous, worker, controller })
    };
    let Some(current) = authority else { return fresh(None).map(Some) };
    let mut made = current.clone();
    match renewal {
        Renewal::None { .. } => return Ok(None),
        Renewal::All => made = fresh(authority)?,
        Renewal::Announce => made.next = Some(make_ca(job, now)?),
        Renewal::Promote => {
            let Some(next) = made.next.take() else { return Ok(None) };
            made.previous = Some(made.signer);
            made.signer = Ca { since: now, ..next };
            (made.worker, made.controller) = leaves(&made.signer, now)?;
        }
        Renewal::Retire => made.previous = None,
        Renewal::Leaves => (made.worker, made.controller) = leaves(&made.signer, now)?,
    }
    Ok(Some(made))
}

/// The time, for [`decide`].
pub fn seconds(at: SystemTime) -> Seconds {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn at(seconds: Seconds) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn make_ca(job: &str, now: Seconds) -> Result<Ca, CertError> {
    let name = format!("weir {} {}", job.chars().take(40).collect::<String>(), random_digits(8));
    let mut params = ca_params(&name);
    let not_after = now + CA_LIFE.as_secs();
    params.not_before = (at(now) - SKEW).into();
    params.not_after = at(not_after).into();
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?.pem();
    Ok(Ca { name, cert, key: key.serialize_pem(), since: now, not_after })
}

fn leaves(ca: &Ca, now: Seconds) -> Result<(Leaf, Leaf), CertError> {
    Ok((make_leaf(ca, WORKER_NAME, now)?, make_leaf(ca, CONTROLLER_NAME, now)?))
}

fn make_leaf(ca: &Ca, name: &str, now: Seconds) -> Result<Leaf, CertError> {
    let issuer = Issuer::new(ca_params(&ca.name), KeyPair::from_pem(&ca.key)?);
    let mut params = CertificateParams::new(vec![name.to_string()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A worker is a server to the controller, and both to other workers.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let not_after = (now + LEAF_LIFE.as_secs()).min(ca.not_after);
    params.not_before = (at(now) - SKEW).into();
    params.not_after = at(not_after).into();
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &issuer)?.pem();
    Ok(Leaf { cert, key: key.serialize_pem(), not_after })
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Seconds = 1_800_000_000;
    const DAYS: u64 = 24 * 3600;

    #[test]
    fn a_job_s_certificates_live_through_eleven_years_without_a_gap_in_trust() {
        let mut authority = None;
        let mut seen = Vec::new();
        let mut day = 0;
        while day < 11 * 365 {
            let now = START + day * DAYS;
            let before: Option<Authority> = authority.clone();
            let renewal = decide(before.as_ref(), now);
            if let Some(made) = renew(before.as_ref(), "air/flights", renewal, now).unwrap() {
                if let Some(before) = &before {
                    // A peer that has not seen the change yet accepts what is shown now, and the other way round.
                    assert!(before.bundle().contains(&made.signer.cert), "day {day}: {renewal:?}");
                    assert!(made.bundle().contains(&before.signer.cert), "day {day}: {renewal:?}");
                }
                seen.push(renewal);
                authority = Some(made);
            }
            let current = authority.as_ref().unwrap();
            assert!(current.worker.not_after > now + DAYS && current.signer.not_after > now + DAYS);
            day += 1;
        }
        let count = |wanted: Renewal| seen.iter().filter(|renewal| **renewal == wanted).count();
        assert_eq!(count(Renewal::All), 1);
        assert_eq!((count(Renewal::Announce), count(Renewal::Promote), count(Renewal::Retire)), (1, 1, 1));
        assert!(count(Renewal::Leaves) > 60);
    }

    #[test]
    fn an_authority_is_read_back_as_it_was_and_hides_its_keys() {
        let authority = renew(None, "a/b", Renewal::All, START).unwrap().unwrap();
        let back: Authority = serde_json::from_slice(&serde_json::to_vec(&authority).unwrap()).unwrap();
        assert_eq!(back, authority);
        let shown = format!("{authority:?}");
        assert!(!shown.contains("PRIVATE"), "{shown}");
        let until = START + LEAF_LIFE.as_secs() - LEAF_RENEW.as_secs();
        assert_eq!(decide(Some(&authority), START), Renewal::None { until });
    }

    #[test]
    fn what_has_ended_is_made_anew() {
        let authority = renew(None, "a/b", Renewal::All, START).unwrap().unwrap();
        assert_eq!(decide(Some(&authority), START + CA_LIFE.as_secs()), Renewal::All);
        assert_eq!(decide(Some(&authority), START + LEAF_LIFE.as_secs()), Renewal::Leaves);
        assert_eq!(decide(None, START), Renewal::All);
    }
}
