//! Whether the consumer does its work, and if not, why.

/// What a consumer is doing at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the group has told it its partitions, even if there are none. False for a member that lost all its
    /// partitions, until the group tells it again.
    pub joined: bool,
    /// The assigned partitions, consumed yet or not.
    pub assigned: Vec<i32>,
    /// The partitions whose records are fetched.
    pub consuming: Vec<i32>,
    /// The partitions that are stopped until somebody intervenes, and why.
    pub stopped: Vec<(i32, String)>,
    /// Why the store cannot be reached at present.
    pub unavailable: Option<String>,
    /// What keeps assigned partitions from being consumed at present.
    pub waiting: Option<String>,
    /// Why no broker can be reached at present.
    pub disconnected: Option<String>,
    /// librdkafka's last complaint.
    pub last_error: Option<String>,
    /// Why consuming has ended for good: only a restart helps.
    pub failed: Option<String>,
}

impl Status {
    /// Why the service is not ready, the weightiest reason; None if it is ready. So is a member that has no partition
    /// because there are more members than partitions.
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
