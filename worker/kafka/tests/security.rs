//! TLS with certificates on both sides, and SASL, against a broker that demands them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use weir_kafka::testing::{Kafka, PASSWORD, USER, Wishes};
use weir_kafka::{Client, KafkaError, Properties, Purpose};

/// An authority, and what it signs for the broker and for a client, as files.
fn certificates(folder: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    fs::write(folder.join("authority.pem"), authority.pem()).unwrap();
    let issuer = Issuer::from_params(&params, &key);
    for (name, hosts) in [("broker", vec!["127.0.0.1".to_string()]), ("client", vec!["client".to_string()])] {
        let key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new(hosts).unwrap().signed_by(&key, &issuer).unwrap();
        fs::write(folder.join(format!("{name}.pem")), format!("{}{}", key.serialize_pem(), signed.pem())).unwrap();
    }
}

async fn connect(server: &str, properties: &[(&str, &str)]) -> Result<(), KafkaError> {
    let mut all: BTreeMap<String, String> = [
        ("bootstrap.servers".to_string(), server.to_string()),
        ("default.api.timeout.ms".to_string(), "500".to_string()),
    ]
    .into();
    all.extend(properties.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())));
    let properties = Properties::parse(Purpose::Read, &all).unwrap();
    Client::new(properties.settings)?.cluster(None).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_passwords_are_shown_and_checked_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name);
    let wishes = Wishes { tls: Some((file("broker.pem"), file("authority.pem"))), ..Wishes::default() };
    let Some(kafka) = Kafka::start("certificates_and_passwords", &wishes) else { return };
    let (authority, client) = (file("authority.pem"), file("client.pem"));
    let (authority, client) = (authority.to_str().unwrap(), client.to_str().unwrap());

    let (protocol, trust, identity) =
        (("security.protocol", "SSL"), ("ssl.truststore.location", authority), ("ssl.keystore.location", client));
    let tls = kafka.tls_server();
    connect(&tls, &[protocol, trust, identity]).await.unwrap();
    let error = connect(&tls, &[protocol, trust]).await.unwrap_err().to_string();
    assert!(error.contains(&tls), "{error}");
    let error = connect(&tls, &[protocol, identity]).await.unwrap_err().to_string();
    assert!(error.contains("ssl.truststore.location"), "{error}");
    let by_name = tls.replace("127.0.0.1", "localhost");
    let error = connect(&by_name, &[protocol, trust, identity]).await.unwrap_err().to_string();
    assert!(error.contains("by the name that the certificate bears"), "{error}");
    let any_name = ("ssl.endpoint.identification.algorithm", "");
    connect(&by_name, &[protocol, trust, identity, any_name]).await.unwrap();
    let error = connect(&tls, &[]).await.unwrap_err().to_string();
    assert!(error.contains("security.protocol"), "{error}");

    let sasl = kafka.sasl_server();
    let escaped = PASSWORD.replace('"', "\\\"");
    for (mechanism, module) in [
        ("PLAIN", "plain.PlainLoginModule"),
        ("SCRAM-SHA-256", "scram.ScramLoginModule"),
        ("SCRAM-SHA-512", "scram.ScramLoginModule"),
    ] {
        let jaas = |password: &str| {
            format!("org.apache.kafka.common.security.{module} required username=\"{USER}\" password=\"{password}\";")
        };
        let (right, wrong) = (jaas(&escaped), jaas("wrong"));
        let with = |jaas| {
            [("security.protocol", "SASL_SSL"), trust, ("sasl.mechanism", mechanism), ("sasl.jaas.config", jaas)]
        };
        connect(&sasl, &with(&right)).await.unwrap();
        let error = connect(&sasl, &with(&wrong)).await.unwrap_err().to_string();
        assert!(error.contains("user 'weir'") && error.contains("sasl.jaas.config"), "{mechanism}: {error}");
        assert!(!error.contains("wrong"), "{error}");
    }
}
