//! One trace from a site's upload to the published model, whichever processes do the work; and none where no collector is named.

use fedbasin_tests::{
    Database, Options, Receiver, Server,
    checkpoint::{one_hot, one_hot_spec},
    eventually, on_both_databases,
};
use prost::Message;
use serde_json::json;

on_both_databases!(one_trace_goes_from_the_upload_to_the_published_model);

/// As opentelemetry-proto has it, as far as it is looked at here.
#[derive(Clone, PartialEq, Message)]
struct Exported {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<Resources>,
}

#[derive(Clone, PartialEq, Message)]
struct Resources {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<Scope>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Text>,
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

/// All spans that came, each with the process that sent it.
fn spans(collector: &Receiver) -> Vec<(String, Span)> {
    let mut all = Vec::new();
    for told in collector.told() {
        assert_eq!(told.line, "POST /v1/traces");
        assert_eq!(told.header("content-type"), "application/x-protobuf");
        assert_eq!(told.header("x-key"), "of-the-collector");
        for of in Exported::decode(told.body.as_slice()).expect("spans").resources {
            let attributes = of.resource.expect("a resource").attributes;
            let text = |key: &str| {
                let found = attributes.iter().find(|attribute| attribute.key == key);
                found.and_then(|attribute| attribute.value.clone()).expect("said").text
            };
            assert_eq!(text("service.name"), "fedbasin-server");
            for span in of.scopes.into_iter().flat_map(|scope| scope.spans) {
                all.push((text("service.instance.id"), span));
            }
        }
    }
    all
}

async fn one_trace_goes_from_the_upload_to_the_published_model(database: Database) {
    let (collector, folder) = (Receiver::start(), tempfile::tempdir().expect("a folder"));
    let headers = folder.path().join("headers");
    std::fs::write(&headers, "x-key: of-the-collector\n").expect("a file");
    let otlp = format!("[otlp]\nendpoint = \"{}\"\nheaders_file = {headers:?}\n", collector.url);
    let mut options = Options::in_folder(folder.path());
    options.config += &otlp;
    // On Postgres another process does the work.
    let apart = database.url().is_some();
    let (server, worker) = match apart {
        true => {
            let server = Server::start_with(database, options.only_serving(""));
            let worker = server.beside(true);
            (server, Some(worker))
        }
        false => (Server::start_with(database, options), None),
    };
    let admin = server.admin();
    let (a, b) = (server.site("a"), server.site("b"));
    let run = admin.create_run(&json!({
        "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a", "b"],
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600 },
    }));
    // Not in the order of their names.
    b.upload(&run, 1, &one_hot(1, 64), 1).await.expect("a receipt");
    a.upload(&run, 1, &one_hot(0, 64), 1).await.expect("a receipt");
    admin.round_becomes(&run, 1, "published").await;
    let all = eventually("all spans came", || {
        let all = spans(&collector);
        let count = |name: &str| all.iter().filter(|(_, span)| span.name == name).count();
        let each = ["announce", "receive", "validate", "align"].iter().all(|name| count(name) == 2);
        (each && count("merge") == 1 && count("publish") == 1).then_some(all)
    })
    .await;

    let (publisher, publish) = all.iter().find(|(_, span)| span.name == "publish").expect("published");
    let of_trace: Vec<&(String, Span)> = all.iter().filter(|(_, span)| span.trace == publish.trace).collect();
    let mut names: Vec<&str> = of_trace.iter().map(|(_, span)| span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["align", "announce", "merge", "publish", "receive", "validate"]);
    let root = of_trace.iter().find(|(_, span)| span.name == "announce").expect("a root");
    let first = all.iter().filter(|(_, span)| span.name == "announce").min_by_key(|(_, span)| span.start);
    assert_eq!(Some(&root.1), first.map(|(_, span)| span), "a round's trace is that of its first update");
    assert!(root.1.parent.is_empty() && root.1.id.len() == 8 && root.1.trace.len() == 16, "{root:?}");
    for (_, span) in &of_trace {
        assert!(span.name == "announce" || span.parent == root.1.id, "{span:?}");
        assert!(span.start <= span.end && root.1.start <= span.start, "{span:?}");
    }
    assert_eq!(root.0 != *publisher, apart, "the process that received, and the one that published");
    let (_, merge) = of_trace.iter().find(|(_, span)| span.name == "merge").expect("merged");
    let other = all.iter().find(|(_, span)| span.trace != publish.trace).expect("the other update's");
    assert_eq!(merge.links.iter().map(|link| &link.trace).collect::<Vec<_>>(), [&other.1.trace]);
    assert!(
        merge
            .attributes
            .iter()
            .any(|one| one.key == "run.id" && one.value.as_ref().is_some_and(|id| id.text == run))
    );
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_no_trace_is_kept() {
    let server = Server::start(Database::sqlite());
    let admin = server.admin();
    let site = server.site("a");
    let run = admin.create_run(&json!({
        "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    site.upload(&run, 1, &one_hot(0, 64), 1).await.expect("a receipt");
    admin.round_becomes(&run, 1, "published").await;
    let kept = "SELECT 1 FROM updates WHERE traceparent IS NOT NULL UNION ALL SELECT 1 FROM rounds WHERE traceparent IS NOT NULL";
    let rows = sqlx::query(kept).fetch_all(&mut server.rows().await).await.expect("rows");
    assert!(rows.is_empty());
}
