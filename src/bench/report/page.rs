//! What all pages have in common.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::bench::Machine;

const STYLE: &str = include_str!("style.css");
/// Nothing is loaded and nothing runs, even if something of a stranger's got through.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// A whole page.
pub(super) fn page(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    (body)
                }
            }
        }
    };
    page.into_string()
}

/// A table that scrolls by itself where it is too wide, also by keyboard. Cells may hold a stranger's text; the first
/// of a row is its heading.
pub(super) fn table(caption: &str, heads: &[&str], rows: &[Vec<Markup>]) -> Markup {
    html! {
        div.scroll role="region" aria-label=(caption) tabindex="0" {
            table {
                caption { (caption) }
                thead { tr { @for head in heads { th scope="col" { (head) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (at, cell) in row.iter().enumerate() {
                                @if at == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Names with values, under a heading. What has no value is left out.
pub(super) fn facts<'a>(heading: &str, facts: impl IntoIterator<Item = (&'a str, Option<String>)>) -> Markup {
    html! {
        section.card {
            h3 { (heading) }
            dl {
                @for (name, value) in facts {
                    @if let Some(value) = value {
                        div { dt { (name) } dd { (text(&value)) } }
                    }
                }
            }
        }
    }
}

/// A stranger's text: apart from what is around it, whatever direction it is written in.
pub(super) fn text(text: &str) -> Markup {
    html! { bdi { (text) } }
}

/// A machine and a build.
pub(super) fn machine(machine: &Machine) -> Markup {
    let Machine { cpu, cores, memory, system, compiler, profile, version, commit } = machine;
    facts(
        "Machine and build",
        [
            ("Processor", Some(cpu.clone())),
            ("Cores", Some(cores.to_string())),
            ("Memory", (*memory > 0).then(|| super::format::bytes(*memory))),
            ("System", Some(system.clone())),
            ("Compiler", Some(compiler.clone())),
            ("Profile", Some(profile.clone())),
            ("Version", Some(version.clone())),
            ("Commit", commit.clone()),
        ],
    )
}
