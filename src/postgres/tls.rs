//! How the server has to prove its identity: libpq's `sslmode` and `sslrootcert`, of which tokio-postgres knows a part.

use std::path::{Path, PathBuf};

use native_tls::{Certificate, TlsConnector};
use postgres_native_tls::MakeTlsConnector;

use super::error::PgError;

/// What of the server's certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    Nothing,
    /// Who signed it.
    Signer,
    /// That, and the server's name in it.
    SignerAndName,
}

/// How far to trust the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trust {
    checked: Checked,
    /// Certificates of trusted signers; None for those that the system trusts.
    roots: Option<PathBuf>,
}

impl Trust {
    /// Takes the settings about trust out of a URL, and returns the rest. In `key=value` pairs tokio-postgres itself
    /// refuses the settings that it does not know.
    pub(super) fn split(url: &str, root_certificate: Option<&Path>) -> Result<(Self, String), PgError> {
        let (mut mode, mut roots, mut disabled) = (None, root_certificate.map(Path::to_owned), false);
        let is_url = url.starts_with("postgresql://") || url.starts_with("postgres://");
        let mut rest = url.to_owned();
        if let Some((address, query)) = url.split_once('?').filter(|_| is_url) {
            let mut kept = Vec::new();
            for pair in query.split('&') {
                match pair.split_once('=') {
                    Some(("sslmode", value)) if value.starts_with("verify-") => {
                        mode = Some(value.to_owned());
                        kept.push("sslmode=require".to_owned());
                    }
                    Some(("sslrootcert", value)) => roots = Some(PathBuf::from(decoded(value)?)),
                    _ => {
                        disabled |= pair == "sslmode=disable";
                        kept.push(pair.to_owned());
                    }
                }
            }
            rest = format!("{address}?{}", kept.join("&"));
        }
        let checked = match mode.as_deref() {
            Some("verify-full") => Checked::SignerAndName,
            Some("verify-ca") => Checked::Signer,
            Some(other) => return Err(wrong(format!("sslmode can be verify-ca or verify-full, not {other}"))),
            // In libpq `require` with a root certificate means verify-ca; without any `sslmode` the stricter mode
            // applies.
            None if roots.is_some() && !disabled => Checked::SignerAndName,
            None => Checked::Nothing,
        };
        // libpq's name for the certificates that the system trusts.
        let roots = roots.filter(|path| path.as_os_str() != "system");
        Ok((Trust { checked, roots }, rest))
    }

    /// Whether a connection without TLS will not do.
    pub(super) fn is_asked_for(&self) -> bool {
        self.checked != Checked::Nothing
    }

    pub(super) fn connector(&self) -> Result<MakeTlsConnector, PgError> {
        let mut tls = TlsConnector::builder();
        match self.checked {
            Checked::Nothing => drop(tls.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true)),
            Checked::Signer => drop(tls.danger_accept_invalid_hostnames(true)),
            Checked::SignerAndName => {}
        }
        if let Some(path) = &self.roots {
            let unreadable = |error: String| wrong(format!("{}: {error}", path.display()));
            let pem = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
            let roots = Certificate::stack_from_pem(&pem).map_err(|error| unreadable(error.to_string()))?;
            if roots.is_empty() {
                return Err(unreadable("there is no certificate in it".to_owned()));
            }
            tls.disable_built_in_roots(true);
            for root in roots {
                tls.add_root_certificate(root);
            }
        }
        Ok(MakeTlsConnector::new(tls.build().map_err(|error| wrong(error.to_string()))?))
    }
}

fn wrong(what: String) -> PgError {
    PgError::Settings { what }
}

/// A value of a URL, its `%` escapes resolved.
fn decoded(value: &str) -> Result<String, PgError> {
    let malformed = || wrong("sslrootcert: a % that begins no escape".to_owned());
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
            let (high, low) = digit().zip(digit()).ok_or_else(malformed)?;
            (high << 4 | low) as u8
        } else {
            byte
        });
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(url: &str) -> (Checked, Option<String>, String) {
        let (trust, rest) = Trust::split(url, None).expect("a URL");
        (trust.checked, trust.roots.map(|path| path.display().to_string()), rest)
    }

    /// D8: what libpq knows of TLS is taken out of the URL, and nothing else.
    #[test]
    fn a_url_says_whom_to_trust() {
        let path = || Some("/a b".to_owned());
        for (url, expected) in [
            ("postgres://h/d", (Checked::Nothing, None, "postgres://h/d")),
            ("postgres://h/d?sslmode=require", (Checked::Nothing, None, "postgres://h/d?sslmode=require")),
            (
                "postgresql://h/d?sslmode=verify-full",
                (Checked::SignerAndName, None, "postgresql://h/d?sslmode=require"),
            ),
            (
                "postgres://h/d?a=b&sslmode=verify-ca&sslrootcert=%2Fa%20b&c=d",
                (Checked::Signer, path(), "postgres://h/d?a=b&sslmode=require&c=d"),
            ),
            ("postgres://h/d?sslrootcert=/a b", (Checked::SignerAndName, path(), "postgres://h/d?")),
            (
                "postgres://h/d?sslmode=verify-full&sslrootcert=system",
                (Checked::SignerAndName, None, "postgres://h/d?sslmode=require"),
            ),
            (
                "postgres://h/d?sslrootcert=/a b&sslmode=disable",
                (Checked::Nothing, path(), "postgres://h/d?sslmode=disable"),
            ),
            ("host=h sslmode=require", (Checked::Nothing, None, "host=h sslmode=require")),
        ] {
            let (checked, roots, rest) = expected;
            assert_eq!(split(url), (checked, roots, rest.to_owned()), "{url}");
        }
        for wrong in
            ["postgres://h/d?sslmode=verify-most", "postgres://h/d?sslrootcert=%2", "postgres://h/d?sslrootcert=%ff"]
        {
            assert!(Trust::split(wrong, None).is_err(), "{wrong}");
        }
    }
}
