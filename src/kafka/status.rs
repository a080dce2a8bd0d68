//! Whether the consumer does its work, and if not, why.

/// What a consumer is doing at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether it knows what it has been given, if only nothing. A member that lost all its partitions does not, until the
    /// group tells it.
    pub joined: bool,
    /// The partitions it has been given, consumed yet or not.
    pub assigned: Vec<i32>,
    /// Those whose records flow.
    pub consuming: Vec<i32>,
    /// Those that are stopped until somebody has looked at them, and why.
    pub stopped: Vec<(i32, String)>,
    /// Why the store cannot be reached at present.
    pub unavailable: Option<String>,
    /// What keeps partitions that are assigned from being consumed, at present.
    pub waiting: Option<String>,
    /// Why no broker can be reached at present.
    pub disconnected: Option<String>,
    /// The last thing that librdkafka complained of.
    pub last_error: Option<String>,
    /// Why it has stopped for good: only a restart helps.
    pub failed: Option<String>,
}

impl Status {
    /// Why the service is not ready, by weight; None when it is. A member without a partition, since there are more members than
    /// partitions, is ready.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        let stopped =
            || self.stopped.first().map(|(partition, why)| format!("partition {partition} is stopped: {why}"));
        let unavailable = || self.unavailable.as_ref().map(|what| format!("the store is unavailable: {what}"));
        let disconnected = || self.disconnected.as_ref().map(|what| format!("no broker can be reached: {what}"));
        let waiting = || self.waiting.clone();
        let joined = || (!self.joined).then(|| "no partitions are assigned yet".to_owned());
        self.failed.clone().or_else(stopped).or_else(unavailable).or_else(disconnected).or_else(waiting).or_else(joined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_weighs_most_is_said() {
        let mut status = Status::default();
        assert!(status.not_ready().is_some_and(|why| why.contains("assigned")));
        status.joined = true;
        assert_eq!(status.not_ready(), None);
        status.unavailable = Some("no answer".to_owned());
        status.stopped = vec![(3, "records were lost".to_owned())];
        assert_eq!(status.not_ready().as_deref(), Some("partition 3 is stopped: records were lost"));
        status.failed = Some("bad schema".to_owned());
        assert_eq!(status.not_ready().as_deref(), Some("bad schema"));
    }
}
