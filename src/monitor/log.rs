//! Metrics about lines that the log lost.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;

/// The log's metrics; the function returns the number of lines lost so far.
pub struct LogMetrics<F>(pub F);

impl<F> fmt::Debug for LogMetrics<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogMetrics")
    }
}

impl<F: Fn() -> usize + Send + Sync + 'static> Collector for LogMetrics<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let lost = ConstCounter::new((self.0)() as u64);
        let help =
            "Lines of the log that nobody took in time or that could not be written, those that tell of it among them";
        lost.encode(encoder.encode_descriptor("log_lines_lost", help, None, lost.metric_type())?)
    }
}
