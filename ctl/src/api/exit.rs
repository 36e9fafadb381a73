//! The exit codes of `mountd` and `mountctl`.

/// What a process ends with; append-only, because scripts and unit files name the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Done. Also `status` of an unhealthy mount: showing it succeeded.
    Ok = 0,
    /// Anything without a code of its own.
    Failure = 1,
    /// Bad flags or arguments.
    Usage = 2,
    /// No daemon answers on the socket.
    NotRunning = 3,
    /// The control socket refused the caller.
    NotPermitted = 4,
    /// No such mount, conflict or record.
    NotFound = 5,
    /// A wait ended with work left, or the daemon did not answer in time.
    TimedOut = 6,
    /// `status --check`: conflicts, parked records, or a degraded mount.
    Attention = 7,
    /// `status --check`: paused, offline, backing off, or without authorisation.
    NotFlowing = 8,
    /// The token is missing, rejected or expired.
    Auth = 10,
    /// The workspace server cannot be reached or fails.
    Server = 11,
    /// A service command was refused.
    ServiceError = 21,
    /// The service manager failed.
    ServiceCommandFailed = 22,
    /// The record of what was installed cannot be read.
    ServiceCorruptState = 23,
    /// The mount could not be made (the convention of mount(8)).
    MountFailed = 32,
    /// FUSE is not available here.
    FuseUnavailable = 50,
    /// Another daemon holds this mount or state folder.
    AlreadyRunning = 75,
    /// The configuration is not valid.
    Config = 78,
    /// Ended by SIGINT.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl ExitCode {
    /// Returns the number the process ends with.
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}
