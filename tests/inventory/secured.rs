//! TLS to both servers and passwords to the brokers, against servers that insist on them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::events::Events;
use crate::instance::serve;
use crate::model::everything_once;
use crate::servers::Server;
use crate::service::{SOON, Service, equipoise};
use crate::state::{connect, consumed};
use crate::topic::Topic;

const BROKER: u16 = 28292;
const OVER_TLS: u16 = BROKER + 2;
const WITH_PASSWORD: u16 = BROKER + 3;

/// Certificates: of a CA, of servers at 127.0.0.1 that it vouches for, and of somebody else.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Self {
        let these = Certificates(tempfile::tempdir().unwrap());
        // The servers' user reads them.
        let make = "set -e; chmod 755 .
            for ca in ca other; do
                openssl req -x509 -newkey rsa:2048 -nodes -keyout $ca.key -out $ca.pem -subj /CN=$ca -days 2
            done
            openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=server
            echo subjectAltName=IP:127.0.0.1 > names
            openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem
            cat server.key server.pem > both.pem
            chmod 600 server.key
            [ $(id -u) != 0 ] || chown postgres server.key";
        let made = Command::new("bash").args(["-c", make]).current_dir(these.0.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        these
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

/// A broker with a listener for TLS, and one for TLS and passwords; the plain one is the tests' own.
fn broker(certificates: &Certificates) -> Server {
    let at = |name: &str, port: u16| format!("{name}://127.0.0.1:{port}");
    let open = [at("PLAINTEXT", BROKER), at("TLS", OVER_TLS), at("SASL", WITH_PASSWORD)].join(",");
    let lines = [
        format!("listeners={open},{}", at("CONTROLLER", BROKER + 1)),
        format!("advertised.listeners={open}"),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,SASL:SASL_SSL".to_owned(),
        "ssl.keystore.type=PEM".to_owned(),
        format!("ssl.keystore.location={}", certificates.text("both.pem")),
        "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256".to_owned(),
        "listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
         user_alice=\"secret\";"
            .to_owned(),
        "listener.name.sasl.scram-sha-256.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;"
            .to_owned(),
    ];
    let properties = certificates.path("broker.properties");
    std::fs::write(&properties, lines.join("\n")).unwrap();
    Server::broker_with(BROKER, &properties, "--add-scram SCRAM-SHA-256=[name=alice,password=secret]")
}

/// A database that has TLS.
async fn database(certificates: &Certificates) -> Server {
    let database = Server::database(28540);
    let admin = connect(&database.address).await;
    let [certificate, key] = ["server.pem", "server.key"].map(|name| certificates.text(name));
    for statement in [
        format!("ALTER SYSTEM SET ssl_cert_file = '{certificate}'"),
        format!("ALTER SYSTEM SET ssl_key_file = '{key}'"),
        "ALTER SYSTEM SET ssl = on".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        admin.batch_execute(&statement).await.unwrap();
    }
    let until = Instant::now() + SOON;
    while connect(&database.address).await.query_one("SHOW ssl", &[]).await.unwrap().get::<_, &str>(0) != "on" {
        assert!(Instant::now() < until, "no TLS");
        sleep(Duration::from_millis(50)).await;
    }
    database
}

/// D1, D6, D8: events come over TLS, with a password of either kind, and go over TLS; whoever is not who he should be is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_servers_are_reached_by_tls_and_password() {
    let certificates = Certificates::new();
    let (broker, database) = (broker(&certificates), database(&certificates).await);
    let topic = Topic::create(&broker.address, "secured").await;
    let (ca, other) = (certificates.text("ca.pem"), certificates.text("other.pem"));
    let trusting = |mode: &str, roots: &str| format!("{}?sslmode={mode}&sslrootcert={roots}", database.address);
    let start = |port: u16, url: &str, variables: &[(&str, &str)]| {
        let mut command = serve(&format!("127.0.0.1:{port}"), &topic, url);
        command.envs(variables.iter().copied());
        command
    };
    let tls = [("KAFKA_SECURITY_PROTOCOL", "ssl"), ("KAFKA_SSL_CA_LOCATION", ca.as_str())];
    let password = |mechanism, password| {
        [
            ("KAFKA_SECURITY_PROTOCOL", "sasl_ssl"),
            ("KAFKA_SSL_CA_LOCATION", ca.as_str()),
            ("KAFKA_SASL_MECHANISM", mechanism),
            ("KAFKA_SASL_USERNAME", "alice"),
            ("KAFKA_SASL_PASSWORD", password),
        ]
    };
    let (plain, scram) = (password("PLAIN", "secret"), password("SCRAM-SHA-256", "secret"));
    let mut events = Events::new("secured", 20, 5);
    let client = connect(&database.address).await;
    for (port, mode, variables) in [
        (OVER_TLS, "verify-full", &tls[..]),
        (WITH_PASSWORD, "verify-ca", &plain[..]),
        (WITH_PASSWORD, "verify-full", &scram[..]),
    ] {
        let service = Service::start(&mut start(port, &trusting(mode, &ca), variables));
        let producer = topic.producer();
        for _ in 0..500 {
            let (key, value) = events.next();
            producer.send(None, &key, value.as_bytes());
        }
        producer.flush();
        consumed(&client, &topic, SOON).await;
        for url in [trusting(mode, &ca), format!("{}?sslmode=require", database.address)] {
            let brokers = format!("127.0.0.1:{BROKER}");
            let produce =
                ["produce", "--events", "200", "--brokers", &brokers, "--topic", &topic.name, "--check", &url];
            let checked = equipoise(&produce).output().unwrap();
            assert!(checked.status.success(), "{url}: {}", String::from_utf8_lossy(&checked.stderr));
        }
        let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
            WHERE application_name = 'equipoise' AND NOT ssl";
        assert_eq!(client.query_one(plain, &[]).await.unwrap().get::<_, i64>(0), 0, "sessions without TLS");
        service.stop();
    }
    everything_once(&client, &topic).await;

    // Who cannot prove to be the database is not waited for.
    let not_local = |url: String| url.replace("127.0.0.1", "localhost");
    for url in [trusting("verify-full", &other), not_local(trusting("verify-full", &ca)), trusting("verify-ca", &other)]
    {
        let (status, said) = Service::spawn(&mut start(BROKER, &url, &[])).ended_within(SOON);
        assert!(!status.success() && said.contains("certificate verify failed"), "{url}: {said}");
    }
    Service::start(&mut start(BROKER, &not_local(trusting("verify-ca", &ca)), &[])).stop();
    // A broker may be somebody else tomorrow.
    let somebody = [("KAFKA_SECURITY_PROTOCOL", "ssl"), ("KAFKA_SSL_CA_LOCATION", other.as_str())];
    let wrong = password("SCRAM-SHA-256", "guessed");
    for (port, variables, what) in
        [(OVER_TLS, &somebody[..], "certificate verify failed"), (WITH_PASSWORD, &wrong[..], "Authentication failed")]
    {
        let service = Service::begin(&mut start(port, &database.address, variables));
        service.says(what).await;
        service.stop();
    }
    let missing = trusting("verify-full", "/nowhere/ca.pem");
    let (status, said) = Service::spawn(&mut start(BROKER, &missing, &[])).ended_within(SOON);
    assert!(!status.success() && said.contains("/nowhere/ca.pem"), "{said}");
}
