//! Puts a database back to an earlier state, as from a backup, under whoever is connected.

use tokio_postgres::NoTls;

/// Keeps a copy of the present state of the database at `url`.
pub async fn save(url: &str) {
    let (_, name) = split(url);
    swap(url, &[format!("CREATE DATABASE {name}_saved TEMPLATE {name}")]).await;
}

/// Puts that state back.
pub async fn restore(url: &str) {
    let (_, name) = split(url);
    swap(url, &[format!("DROP DATABASE {name}"), format!("ALTER DATABASE {name}_saved RENAME TO {name}")]).await;
}

fn split(url: &str) -> (&str, &str) {
    url.rsplit_once('/').expect("a URL with a database")
}

/// Ends all sessions, and lets nobody in until the statements are through.
async fn swap(url: &str, statements: &[String]) {
    let (server, name) = split(url);
    let (client, connection) = tokio_postgres::connect(&format!("{server}/postgres"), NoTls).await.expect("a server");
    tokio::spawn(connection);
    client.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await.expect("closed");
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1";
    while client.query_one(end, &[&name]).await.expect("ended").get::<_, i64>(0) > 0 {}
    for statement in statements {
        client.batch_execute(statement).await.expect("SQL");
    }
    client.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await.expect("opened");
}
