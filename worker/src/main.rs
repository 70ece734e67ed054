//! The worker binary of a build without a user's own code.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_worker::Worker::new().main()
}
