//! The plain model: one thread, one map, the events one after the other.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::message::{Message as _, OwnedMessage};
use serde_json::Value;
use tokio_postgres::Client;

use crate::state::{Product, State};
use crate::topic::{Topic, header};

/// What the events of a topic come to.
#[derive(Default)]
pub struct Model {
    products: BTreeMap<String, Product>,
    processed: BTreeMap<String, String>,
    rejected: BTreeSet<String>,
    /// Partition and offset.
    dead: BTreeSet<(i32, i64)>,
}

impl Model {
    /// Of events that are keyed by their product, so that each product's are in one partition, in order.
    pub fn of(topic: &Topic) -> Self {
        let mut model = Model::default();
        for message in topic.read(&topic.name).iter().flatten() {
            model.take(message);
        }
        model
    }

    /// Stock and version of each product.
    pub fn stocks(&self) -> BTreeMap<String, (i64, u64)> {
        self.products
            .iter()
            .map(|(sku, product)| (sku.clone(), (product.stock, product.version.unsigned_abs())))
            .collect()
    }

    /// The ids that were used.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.processed.keys().map(String::as_str)
    }

    /// How many ids were used.
    pub fn processed(&self) -> usize {
        self.processed.len()
    }

    /// How many dead letters there are.
    pub fn dead(&self) -> usize {
        self.dead.len()
    }

    fn take(&mut self, message: &OwnedMessage) {
        let Some((id, product, quantity)) = event(message.payload().unwrap()) else {
            self.dead.insert((message.partition(), message.offset()));
            return;
        };
        if self.processed.contains_key(&id) {
            return;
        }
        self.processed.insert(id.clone(), product.clone());
        let state = self.products.entry(product).or_insert(Product { stock: 0, version: 1, last_event: None });
        if state.stock + quantity < 0 {
            self.rejected.insert(id);
            return;
        }
        *state = Product { stock: state.stock + quantity, version: state.version + 1, last_event: Some(id) };
    }

    /// D2 to D6: the state is the model's, every event has one entry, every dead letter is in its topic.
    pub fn compare(&self, state: &State, topic: &Topic) {
        assert_eq!(state.processed, self.processed);
        assert_eq!(state.products, self.products);
        let rejected = state.journal.iter().filter(|entry| !entry.applied).filter_map(|entry| entry.id.clone());
        assert_eq!(rejected.collect::<BTreeSet<_>>(), self.rejected);
        assert_eq!(state.offsets, topic.ends());
        assert_eq!(state.unpublished, 0);
        let letters = topic.read(&topic.dead_letters());
        let origin = |message: &OwnedMessage| {
            let number = |name| header(message, name).unwrap().parse::<i64>().unwrap();
            assert!(!header(message, "equipoise-reason").unwrap().is_empty());
            (i32::try_from(number("equipoise-partition")).unwrap(), number("equipoise-offset"))
        };
        assert_eq!(letters.iter().flatten().map(origin).collect::<BTreeSet<_>>(), self.dead);
    }
}

/// A good event, by rules of our own for the few kinds that [`crate::events`] makes.
fn event(value: &[u8]) -> Option<(String, String, i64)> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let text = |name: &str| {
        let text = value.as_object()?.get(name)?.as_str()?;
        (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned())
    };
    Some((text("event_id")?, text("product_id")?, value["quantity_change"].as_i64()?))
}

/// D2 to D6: what the database holds is what the model makes of the topic, every event once; and what that is.
pub async fn everything_once(database: &Client, topic: &Topic) -> State {
    let state = State::read(database, topic).await;
    replay(&state);
    Model::of(topic).compare(&state, topic);
    state
}

/// C1, C3, D2: the journal is dense, each entry follows from those before it, and it ends in the products. Holds however the
/// events are keyed.
pub fn replay(state: &State) {
    let mut products = BTreeMap::<String, Product>::new();
    let mut ids = BTreeMap::new();
    for (entry, sequence) in state.journal.iter().zip(1..) {
        assert_eq!(entry.sequence, sequence, "{entry:?}");
        if let Some(id) = &entry.id {
            let first = ids.insert(id.clone(), entry.product.clone());
            assert_eq!(first, None, "decided twice: {entry:?}");
        }
        let before = products.get(&entry.product).cloned();
        if entry.operation == "create" {
            assert_eq!((before, entry.version, entry.balance), (None, 1, entry.amount), "{entry:?}");
            products.insert(
                entry.product.clone(),
                Product { stock: entry.amount, version: 1, last_event: entry.id.clone() },
            );
            continue;
        }
        let before = before.unwrap_or_else(|| panic!("of a product that nobody opened: {entry:?}"));
        let stock = before.stock + entry.amount;
        assert_eq!(entry.applied, stock >= 0, "{entry:?} after {before:?}");
        if entry.applied {
            let after = Product { stock, version: before.version + 1, last_event: entry.id.clone() };
            assert_eq!((entry.balance, entry.version), (after.stock, after.version), "{entry:?}");
            products.insert(entry.product.clone(), after);
        }
    }
    assert_eq!(products, state.products);
    assert_eq!(ids, state.processed);
}
