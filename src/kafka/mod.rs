//! The Kafka door: consumes inventory events, and publishes the dead ones.
