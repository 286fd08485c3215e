//! Every call has an id, which its answer, its log lines and its records have, and belongs to a trace; what the process tells of calls is
//! told by routes; and whether it is ready is told by what is missing.

use fedbasin_proof::Record;
use fedbasin_proto::v1;
use fedbasin_tests::{
    Database, Options, Server,
    checkpoint::{one_hot, one_hot_spec},
    on_both_databases,
};
use serde_json::{Value, json};

on_both_databases!(
    a_calls_id_is_in_its_answer_its_log_lines_and_its_records,
    what_is_missing_is_told_and_by_its_name,
    what_calls_and_steps_take_is_told_by_routes_alone,
);

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// The log's lines that say this.
fn lines(server: &Server, message: &str) -> Vec<Value> {
    let log = server.log();
    let all = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|line| line["fields"]["message"] == message).collect()
}

fn of_call<'l>(line: &'l Value, field: &str) -> &'l str {
    let spans = line["spans"].as_array().expect("spans");
    let request = spans.iter().find(|span| span["name"] == "request").expect("within a request");
    request[field].as_str().expect("text")
}

async fn a_calls_id_is_in_its_answer_its_log_lines_and_its_records(database: Database) {
    let environment = vec![("FEDBASIN_LOG_FORMAT", "json".to_owned())];
    let server = Server::start_with(database, Options { environment, ..Options::default() });
    let admin = server.admin();
    let make = |headers: &[(&str, &str)]| {
        let headers = [&[("content-type", "application/json")], headers].concat();
        let answer = admin.request("POST", "/v1/tokens", &headers, br#"{"role":"viewer"}"#);
        assert_eq!(answer.status, 201);
        answer.header("x-request-id").to_owned()
    };
    let given = format!("00-{TRACE}-b7ad6b7169203331-01");
    // A caller names its trace, and never its call.
    let first = make(&[("traceparent", &given), ("x-request-id", "mine")]);
    let second = make(&[("traceparent", "00-none\u{9}of-it")]);
    assert!(first != second && !first.is_empty() && first != "mine");
    let made = lines(&server, "token made");
    assert_eq!(made.len(), 2, "{}", server.log());
    assert_eq!((of_call(&made[0], "request.id"), of_call(&made[0], "trace.id")), (first.as_str(), TRACE));
    assert_eq!(of_call(&made[1], "request.id"), second);
    assert_eq!(of_call(&made[1], "trace.id"), second.replace('-', ""), "a trace of its own");

    let site = server.site("a");
    let run = admin.create_run(&json!({
        "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    site.upload(&run, 1, &one_hot(0, 64), 1).await.expect("a receipt");
    let accepted = lines(&server, "update accepted");
    assert_eq!(of_call(&accepted[0], "edge"), "grpc");
    let exported = String::from_utf8(admin.get("/v1/audit/export").body).expect("text");
    let records: Vec<Record> = exported.lines().filter_map(|line| Record::from_line(line).ok()).collect();
    let asked = |action: &str| -> Vec<String> {
        let of = records.iter().filter(|record| record.action == action);
        of.filter_map(|record| record.request.clone()).collect()
    };
    let made = asked("token.made");
    assert!(made.contains(&first) && made.contains(&second), "{records:#?}");
    assert_eq!(asked("update.accepted"), [of_call(&accepted[0], "request.id")]);
    let answer = site.client.clone().list_runs(v1::ListRunsRequest {}).await.expect("an answer");
    assert!(answer.metadata().contains_key("x-request-id"));
    assert!(!admin.with_token(None).get("/v1/sites").header("x-request-id").is_empty(), "refused calls too");
}

async fn what_is_missing_is_told_and_by_its_name(database: Database) {
    let mut server = Server::start(database);
    let admin = server.admin().with_token(None);
    let answer = admin.get("/readyz");
    assert_eq!(answer.status, 200);
    let body = answer.json();
    assert_eq!(body["status"], "ok");
    let checks = body["checks"].as_array().expect("checks");
    let mut names: Vec<&str> = checks.iter().filter_map(|check| check["what"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["clock", "database", "disk", "keys", "objects", "schema"]);
    assert!(checks.iter().all(|check| check["ok"] == true && check.get("detail").is_none()), "{body}");

    // As if a newer program had added to the schema meanwhile, and then one changed it.
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 SELECT version + 100, description, success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1";
    sqlx::query(newer).execute(&mut server.rows().await).await.expect("a newer schema");
    server.terminate();
    server.start_again();
    let operator = server.admin();
    let site = server.site("a");
    let run = operator.create_run(&json!({
        "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    let admin = operator.with_token(None);
    assert_eq!(admin.get("/readyz").status, 200, "neighbouring versions run beside one another");
    assert!(server.says(&["migrate"]).0, "there is nothing to do");
    sqlx::query("UPDATE schema_floor SET oldest = 101")
        .execute(&mut server.rows().await)
        .await
        .expect("changed");
    let unready = fedbasin_tests::eventually("it is not ready", || {
        Some(admin.get("/readyz")).filter(|answer| answer.status == 503)
    })
    .await;
    assert!(!unready.header("retry-after").is_empty());
    let body = unready.json();
    assert_eq!(body["status"], "unready");
    for check in body["checks"].as_array().expect("checks") {
        let schema = check["what"] == "schema";
        assert_eq!(check["ok"], !schema, "{body}");
        assert_eq!(
            check["detail"].as_str().is_some_and(|detail| detail.contains("schema")),
            schema,
            "{body}"
        );
    } // Nothing is begun on a schema of which it does not know what it means, and all is done once that is undone.
    site.upload(&run, 1, &one_hot(0, 64), 1).await.expect("a receipt");
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(operator.round(&run, 1)["state"], "collecting");
    sqlx::query("UPDATE schema_floor SET oldest = 14")
        .execute(&mut server.rows().await)
        .await
        .expect("changed");
    operator.round_becomes(&run, 1, "published").await;
    sqlx::query("UPDATE schema_floor SET oldest = 101")
        .execute(&mut server.rows().await)
        .await
        .expect("changed");

    server.terminate();
    let (code, said) = server.start_another();
    assert_eq!(code, Some(1));
    assert!(said.trim().ends_with("use the newer program that serves it"), "{said}");
}

async fn what_calls_and_steps_take_is_told_by_routes_alone(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let site = server.site("a");
    let run = admin.create_run(&json!({
        "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    let update = one_hot(0, 64);
    site.upload(&run, 1, &update, 1).await.expect("a receipt");
    admin.round_becomes(&run, 1, "published").await;
    admin.get("/v1/runs/a-name-that-a-stranger-chose").assert_problem(404, "not-found");
    admin.get("/a/path/that/a/stranger/chose").assert_problem(404, "not-found");
    let text = String::from_utf8(admin.get("/metrics").body).expect("text");
    assert!(!text.contains("stranger"), "{text}");
    let value = |name: &str| -> f64 {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().expect("a number")
    };
    assert!(value(r#"fedbasin_calls_total{edge="http",route="/v1/runs/{run}",code="404"}"#) >= 1.0);
    assert!(value(r#"fedbasin_calls_total{edge="http",route="other",code="404"}"#) >= 1.0);
    assert!(value(r#"fedbasin_calls_total{edge="grpc",route="FinishUpdate",code="ok"}"#) >= 1.0);
    assert!(value(r#"fedbasin_received_bytes_total{edge="grpc"}"#) >= update.len() as f64);
    assert!(value(r#"fedbasin_connections{edge="grpc"}"#) >= 1.0);
    assert!(value(r#"fedbasin_calls_under_way{edge="http"}"#) >= 1.0, "this one");
    assert!(value("fedbasin_database_wait_seconds_count") >= 1.0);
    for step in ["receive", "validate", "align", "merge", "publish"] {
        assert!(value(&format!("fedbasin_step_duration_seconds_count{{step=\"{step}\"}}")) >= 1.0, "{step}");
    }
    assert!(value(r#"fedbasin_leases_total{work="merge",outcome="done"}"#) >= 1.0);
    assert_eq!(value(r#"fedbasin_refusals_total{limit="max_connections"}"#), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_only_works_tells_its_own_figures_to_its_machine() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
    let config = format!("[work]\nmetrics_listen = \"127.0.0.1:{port}\"\n");
    let options = Options { config, only_works: true, ..Options::default() };
    let _server = Server::start_with(Database::sqlite(), options);
    let admin = fedbasin_tests::Admin::new(&format!("http://127.0.0.1:{port}"), "none").with_token(None);
    let text = String::from_utf8(admin.get("/metrics").body).expect("text");
    assert!(text.contains("fedbasin_leases_total") && !text.contains("fedbasin_runs"), "{text}");

    let config = "[work]\nmetrics_listen = \"0.0.0.0:0\"\n".to_owned();
    let refused = Server::try_start(Database::sqlite(), Options { config, ..Options::default() });
    assert!(refused.expect_err("it refuses").contains("work.metrics_listen"));
}
