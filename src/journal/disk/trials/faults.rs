//! What goes wrong on a simulated disk.

/// What goes wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies before the call does anything.
    CrashBefore,
    /// The process dies when the call has done its work; a write only its first half.
    CrashWithin,
    /// The process dies when the call has done its work.
    CrashAfter,
    /// The call does half of what was asked, and says so.
    Short,
    /// The device fails; a failed sync leaves what it was to write clean and not durable.
    Failed,
    /// There is no room.
    Full,
    /// A signal came.
    Interrupted,
}

impl Fault {
    pub(super) const ALL: [Fault; 7] = [
        Fault::CrashBefore,
        Fault::CrashWithin,
        Fault::CrashAfter,
        Fault::Short,
        Fault::Failed,
        Fault::Full,
        Fault::Interrupted,
    ];
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// What was written is there.
    Killed,
    /// What was synced is there, and nothing else.
    WorstPowerCut,
    /// What was synced is there, and of the rest what the disk happened to do.
    PowerCut(u64),
}
