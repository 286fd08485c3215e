//! The guide `docs/FIRST-DAY.md`, typed from its first command to its last: three machines are three folders, `scp` copies between them,
//! and of what cannot be here (ports of whoever runs it, names, the hospital's proxy) each has a substitute, which must be used.

use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use fedbasin_tests::{HttpProxy, ProxyRules, TlsProxy};

use crate::place::{Foreground, Place, free_port, said};

const GUIDE: &str = include_str!("../../../docs/FIRST-DAY.md");
const MACHINES: [&str; 3] = ["operator", "hospital-a", "hospital-b"];

/// `HOST:PATH` is a path in that machine's folder.
const SCP: &str = r#"#!/bin/sh
set -eu
recursive=
if [ "$1" = -r ]; then recursive=-r; shift; fi
where() {
    case $1 in
        *:*) printf '%s/%s/%s' "$PLACE" "${1%%:*}" "${1#*:}" ;;
        *) printf '%s' "$1" ;;
    esac
}
for target; do :; done
while [ $# -gt 1 ]; do
    cp $recursive "$(where "$1")" "$(where "$target")"
    shift
done
"#;

/// A fenced block of the guide.
struct Block {
    language: &'static str,
    /// Where it is typed, as its first line says.
    machines: Vec<&'static str>,
    /// Whether it stays in the foreground, as the same line says.
    stays: bool,
    text: &'static str,
}

fn blocks() -> Vec<Block> {
    let mut found = Vec::new();
    for fenced in GUIDE.split("\n```").skip(1).step_by(2) {
        let (language, text) = fenced.split_once('\n').expect("a block has lines");
        let first = text.lines().next().unwrap_or_default();
        let mut parts = first.trim_start_matches("# ").split(", ");
        let machines: Vec<&str> = parts.by_ref().take_while(|part| MACHINES.contains(part)).collect();
        let stays = first.contains("stays in the foreground");
        assert!(language != "sh" || !machines.is_empty(), "no machine in the first line: {text}");
        found.push(Block { language, machines, stays, text });
    }
    found
}

/// What stands in the guide, what is typed here instead, and how often that was.
struct Substitutes(Vec<(&'static str, String, usize)>);

impl Substitutes {
    fn add(&mut self, instead_of: &'static str, typed: String) {
        self.0.push((instead_of, typed, 0));
    }

    fn of(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for (instead_of, typed, used) in &mut self.0 {
            *used += text.matches(*instead_of).count();
            text = text.replace(*instead_of, typed);
        }
        text
    }
}

/// The ports that are taken here: sites' and operators' of the first server, sites' where only 443 is let out, both behind the proxy.
struct Ports([u16; 5]);

impl Ports {
    fn at(&self, which: usize) -> String {
        format!("127.0.0.1:{}", self.0[which])
    }

    fn substitutes(&self, proxy: &str) -> Substitutes {
        let listen = |grpc, http| format!("--grpc-listen {} --http-listen {}", self.at(grpc), self.at(http));
        let mut all = Substitutes(Vec::new());
        all.add(
            "init fedbasin --host fedbasin.example",
            format!("init fedbasin --host fedbasin.example {}", listen(0, 1)),
        );
        all.add("https://fedbasin.example:50051", format!("https://localhost:{}", self.0[0]));
        all.add("https://fedbasin.example:8080", format!("https://localhost:{}", self.0[1]));
        all.add("--grpc-listen 0.0.0.0:443", format!("--grpc-listen {}", self.at(2)));
        all.add("http://proxy.hospital.example:3128", format!("http://{proxy}"));
        all.add("init behind --behind-proxy", format!("init behind --behind-proxy {}", listen(3, 4)));
        all.add(
            "proxy-pki --host fedbasin.example",
            "proxy-pki --host fedbasin.example --host localhost".into(),
        );
        all
    }
}

/// The guide, as far as it was typed.
struct Day {
    place: Place,
    substitutes: Substitutes,
    server: Option<Foreground>,
    sites: Vec<Foreground>,
}

impl Day {
    fn new(substitutes: Substitutes) -> Self {
        let place = Place::new();
        for machine in MACHINES {
            fs::create_dir(place.path(machine)).expect("a folder");
        }
        fs::write(place.path("bin/scp"), SCP).expect("a file");
        fs::set_permissions(place.path("bin/scp"), fs::Permissions::from_mode(0o755)).expect("a program");
        Self { place, substitutes, server: None, sites: Vec::new() }
    }

    async fn sites_end(&mut self) {
        for site in self.sites.drain(..) {
            site.ends().await;
        }
    }

    async fn types(&mut self, block: &Block) {
        // Whoever stays in the foreground is waited for before something else is typed there, or its server ends.
        if block.stays || !block.machines.contains(&"operator") {
            self.sites_end().await;
        }
        let script = self.substitutes.of(block.text);
        for &machine in &block.machines {
            let mut shell = self.place.shell(&self.place.path(machine), &script);
            println!("---- {machine}\n{script}");
            match (block.stays, machine) {
                (true, "operator") => {
                    self.server = None;
                    self.server = Some(Foreground::serves(shell));
                }
                (true, _) => self.sites.push(Foreground::starts(shell)),
                (false, _) => println!("{}", said(&shell.output().expect("a shell"))),
            }
        }
    }

    fn file(&self, machine: &str, name: &str) -> PathBuf {
        self.place.path(machine).join(name)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_leads_from_nothing_to_published_models_of_two_organisations() {
    let ports = Ports([(); 5].map(|()| free_port()));
    // The only one that knows fedbasin.example, and where its port 443 is.
    let ways = HashMap::from([("fedbasin.example:443".to_owned(), ports.at(2))]);
    let proxy = HttpProxy::start(ProxyRules { ways, ..ProxyRules::default() }).await;
    let mut day = Day::new(ports.substitutes(&proxy.address));
    let (mut typed, mut ends_tls) = (0, None);
    for block in blocks() {
        match block.language {
            "sh" => day.types(&block).await,
            "nginx" => {
                let (cert, key) = ["server.pem", "server.key"]
                    .map(|name| day.file("operator", "proxy-pki").join(name))
                    .into();
                let tls = TlsProxy::start((&cert, &key), ports.at(3), ports.at(4)).await;
                let address = format!("--server https://localhost:{} --ca", tls.port);
                day.substitutes.add("--server https://fedbasin.example --ca", address);
                ends_tls = Some(tls);
            }
            other => panic!("a block of {other:?} is not typed by anybody"),
        }
        typed += 1;
    }
    day.sites_end().await;
    assert!(typed > 20 && ends_tls.is_some(), "{typed} blocks");
    for (instead_of, _, used) in &day.substitutes.0 {
        assert!(*used > 0, "nothing is typed instead of {instead_of:?}: does the guide still say so?");
    }
    assert!(
        proxy.asked().len() >= 2 && proxy.asked().iter().all(|asked| asked == "fedbasin.example:443 200")
    );
    let merged = fs::read(day.file("operator", "merged.safetensors")).expect("the model");
    for site in ["hospital-a", "hospital-b"] {
        let model = |run: &str| fs::read(day.file(site, run).join("global.safetensors")).expect("a model");
        assert_eq!(model("fedbasin-pilot"), merged);
        assert_eq!([model("fedbasin-second"), model("behind")].map(|model| model.len()), [merged.len(); 2]);
    }
}
