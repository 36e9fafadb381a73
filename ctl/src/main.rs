//! Shows and steers running mountd daemons.

use std::process::ExitCode;

use mountctl::{api, env::Env, out::Out};

fn main() -> ExitCode {
    let mut out = Out::process();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let code = match runtime {
        Ok(runtime) => {
            runtime.block_on(mountctl::run(std::env::args_os(), &Env::from_process(), &mut out))
        }
        Err(error) => {
            // With standard error gone as well there is nobody left to tell.
            out.note(&format!("error: cannot start: {error}")).ok();
            api::ExitCode::Failure
        }
    };
    code.into()
}
