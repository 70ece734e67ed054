//! What a program asks of its machine beside files and networks: what time it is, and that something runs beside it.
//!
//! All of Weir asks here and nowhere else, which clippy holds it to (`disallowed-methods`): so a test can hold time still, and can say
//! itself when what is to run beside runs. What only waits (`tokio::time`) needs none of this: its time is the runtime's own, which a test
//! holds there.
#![warn(clippy::disallowed_methods)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod clock;
pub mod tasks;
