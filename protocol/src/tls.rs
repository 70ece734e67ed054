//! Who is who between a controller and the workers of a job: names in certificates, and the files that a worker finds them in.
//!
//! Each job has a certificate authority of its own, so a certificate says two things: of which job, by who signed it, and
//! which of its two parts, by its name.

/// The DNS name that every worker's certificate is for. Whoever connects to a worker checks it.
pub const WORKER_NAME: &str = "worker.weir";
/// The DNS name that the controller's certificate is for. Only its bearer may open a session or ask for a plan.
pub const CONTROLLER_NAME: &str = "controller.weir";

/// The authority's certificate, in the folder that a worker is given.
pub const CA_FILE: &str = "ca.crt";
/// The worker's certificate.
pub const CERT_FILE: &str = "tls.crt";
/// Its key.
pub const KEY_FILE: &str = "tls.key";
