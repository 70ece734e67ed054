//! The `weir` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_controller::workers::session::install_crypto();
    weir_controller::cli::main()
}
