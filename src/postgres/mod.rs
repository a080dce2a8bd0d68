//! PostgreSQL as the place of the state.
