//! What plans, and to what: identities, warnings, fingerprints, names of columns, windows in their several spellings.

use crate::support::planned;
use weir_engine::{Exchange, JobGraph};
use weir_sql::{PlanDescription, explain};

const TABLES: &str = "
CREATE TABLE bid (auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, t TIMESTAMP(3),
                  WATERMARK FOR t AS t - INTERVAL '5' SECOND) WITH ('connector' = 'test');
CREATE TABLE two (a BIGINT, b BIGINT) WITH ('connector' = 'test');
CREATE TABLE one (a BIGINT) WITH ('connector' = 'test');
CREATE TABLE windows (n BIGINT, s TIMESTAMP(3), e TIMESTAMP(3)) WITH ('connector' = 'test');
";

#[track_caller]
fn graph(script: &str) -> JobGraph {
    planned(&format!("{TABLES}{script}")).unwrap_or_else(|error| panic!("{script}\n{error}"))
}

#[track_caller]
fn described(script: &str) -> PlanDescription {
    explain(&graph(script))
}

/// The identities of all operators that keep state.
fn identities(plan: &PlanDescription) -> Vec<String> {
    plan.stages
        .iter()
        .flat_map(|stage| &stage.operators)
        .filter(|operator| operator.state.is_some())
        .map(|operator| operator.identity.clone())
        .collect()
}

fn operators(plan: &PlanDescription) -> Vec<Vec<String>> {
    plan.stages.iter().map(|stage| stage.operators.iter().map(|operator| operator.name.clone()).collect()).collect()
}

#[test]
fn a_stateful_operator_keeps_its_identity_under_edits_that_do_not_touch_it() {
    let plain = described("INSERT INTO two SELECT auction, COUNT(*) FROM bid GROUP BY auction");
    let formatted = described(
        "-- another layout\nINSERT INTO two\n  SELECT auction,\n  count( * ) AS bids FROM `bid` GROUP BY auction;",
    );
    let through_a_view = described(
        "CREATE VIEW v AS SELECT bidder, price, auction AS id FROM bid;
         INSERT INTO two SELECT x.id, COUNT(*) FROM v AS x GROUP BY x.id",
    );
    let beside_another = described(
        "INSERT INTO one SELECT price FROM bid;
         INSERT INTO two SELECT auction, COUNT(*) FROM bid GROUP BY auction",
    );
    assert_eq!(identities(&plain).len(), 1);
    let filtered = described("INSERT INTO two SELECT auction, COUNT(*) FROM bid WHERE price > 1 GROUP BY auction");
    for other in [&formatted, &through_a_view, &beside_another, &filtered] {
        assert_eq!(identities(other), identities(&plain));
    }
    assert_eq!(formatted.fingerprint, plain.fingerprint);
    assert_ne!(beside_another.fingerprint, plain.fingerprint);
    assert_ne!(filtered.fingerprint, plain.fingerprint);
}

#[test]
fn what_an_operator_means_changes_its_identity() {
    let plans = [
        "INSERT INTO two SELECT auction, COUNT(*) FROM bid GROUP BY auction",
        "INSERT INTO two SELECT bidder, COUNT(*) FROM bid GROUP BY bidder",
        "INSERT INTO two SELECT auction, SUM(price) FROM bid GROUP BY auction",
        "INSERT INTO two SELECT auction, COUNT(DISTINCT price) FROM bid GROUP BY auction",
        "INSERT INTO two SELECT auction, COUNT(*) FILTER (WHERE price > 1) FROM bid GROUP BY auction",
        "INSERT INTO two SELECT auction, COUNT(*) FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(t), INTERVAL '1' MINUTE))
         GROUP BY auction, window_start, window_end",
        "INSERT INTO two SELECT auction, COUNT(*) FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(t), INTERVAL '2' MINUTE))
         GROUP BY auction, window_start, window_end",
    ];
    let mut seen: Vec<String> = plans.iter().flat_map(|plan| identities(&described(plan))).collect();
    assert_eq!(seen.len(), plans.len());
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), plans.len());
}

#[test]
fn the_fingerprint_has_max_parallelism_and_options_in_it() {
    let script = format!("{TABLES}INSERT INTO one SELECT auction FROM bid");
    let fingerprint = |script: &str, max_parallelism| {
        let request = weir_sql::PlanRequest { script: script.to_string(), base_dir: ".".to_string(), max_parallelism };
        weir_sql::plan(&request, &crate::support::catalog()).unwrap().fingerprint
    };
    assert_eq!(fingerprint(&script, 128), fingerprint(&script, 128));
    assert_ne!(fingerprint(&script, 128), fingerprint(&script, 64));
    let bounded = script.replace(
        "INTERVAL '5' SECOND) WITH ('connector' = 'test')",
        "INTERVAL '5' SECOND) WITH ('connector' = 'test', 'bounded' = 'true')",
    );
    assert_ne!(fingerprint(&script, 128), fingerprint(&bounded, 128));
}

#[test]
fn a_state_without_a_bound_is_warned_of_by_its_operators_name() {
    let plan = described("INSERT INTO two SELECT auction, COUNT(*) FROM bid GROUP BY auction");
    assert_eq!(plan.warnings.len(), 1);
    assert_eq!(plan.warnings[0].operator, "GroupAggregate(by auction: COUNT(*))");
    assert!(plan.warnings[0].message.contains("without bound"));

    let windowed = "INSERT INTO one SELECT COUNT(*) FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(t), INTERVAL '1' MINUTE))
                    GROUP BY window_start, window_end";
    let global = "INSERT INTO one SELECT COUNT(*) FROM bid";
    for (script, bound) in [(windowed, "a row in each open window of 1m"), (global, "one row")] {
        let plan = described(script);
        assert!(plan.warnings.is_empty());
        let state = plan.stages.iter().flat_map(|stage| &stage.operators).find_map(|operator| operator.state.clone());
        assert_eq!(state.unwrap().bounded_by.unwrap(), bound);
    }
}

#[test]
fn an_input_that_ends_bounds_every_state() {
    let script = format!("{TABLES}INSERT INTO two SELECT auction, COUNT(*) FROM bid GROUP BY auction")
        .replace("SECOND) WITH ('connector' = 'test')", "SECOND) WITH ('connector' = 'test', 'bounded' = 'true')");
    let plan = explain(&planned(&script).unwrap());
    assert!(plan.warnings.is_empty());
}

#[test]
fn the_older_group_windows_plan_like_the_table_functions() {
    let old = described(
        "INSERT INTO windows SELECT COUNT(*), TUMBLE_START(t, INTERVAL '1' MINUTE), TUMBLE_END(t, INTERVAL '1' MINUTE)
         FROM bid WHERE price > 5 GROUP BY auction, TUMBLE(t, INTERVAL '1' MINUTE)",
    );
    let new = described(
        "INSERT INTO windows SELECT COUNT(*), window_start, window_end
         FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(t), INTERVAL '1' MINUTE)) WHERE price > 5
         GROUP BY auction, window_start, window_end",
    );
    let hopping = described(
        "INSERT INTO windows SELECT COUNT(*), HOP_START(t, INTERVAL '1' MINUTE, INTERVAL '3' MINUTE),
             HOP_END(t, INTERVAL '1' MINUTE, INTERVAL '3' MINUTE)
         FROM (SELECT * FROM bid WHERE price > 5) GROUP BY HOP(t, INTERVAL '1' MINUTE, INTERVAL '3' MINUTE)",
    );
    assert_eq!(old, new);
    assert!(operators(&hopping)[1][0].contains("HOP(bid.t, 1m, 3m)"));
}

#[test]
fn window_functions_take_arguments_by_name_and_an_offset() {
    let plan = described(
        "INSERT INTO one SELECT COUNT(*) FROM TABLE(HOP(DATA => TABLE bid, TIMECOL => DESCRIPTOR(t),
             SLIDE => INTERVAL '30' SECONDS, SIZE => INTERVAL '1' MINUTES, `OFFSET` => INTERVAL '5' SECOND))
         GROUP BY window_start, window_end",
    );
    assert!(operators(&plan)[1][0].contains("HOP(bid.t, 30s, 1m, offset 5s)"), "{:?}", operators(&plan));
}

#[test]
fn windows_of_window_results_are_windows_again() {
    let plan = described(
        "CREATE VIEW minutes AS SELECT auction, COUNT(*) AS bids, window_time AS wt
             FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(t), INTERVAL '1' MINUTE))
             GROUP BY auction, window_start, window_end, window_time;
         INSERT INTO one SELECT SUM(bids) FROM TABLE(TUMBLE(TABLE minutes, DESCRIPTOR(wt), INTERVAL '1' HOUR))
         GROUP BY window_start, window_end",
    );
    assert_eq!(plan.stages.len(), 3);
    assert!(plan.stages[2].operators[0].name.starts_with("WindowAggregate("));
    assert!(plan.warnings.is_empty());
}

#[test]
fn windows_of_the_same_windows_close_with_them() {
    let plan = described(
        "INSERT INTO windows SELECT MAX(bids), ws, we FROM (
             SELECT auction, COUNT(*) AS bids, window_start AS ws, window_end AS we
             FROM TABLE(HOP(TABLE bid, DESCRIPTOR(t), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
             GROUP BY auction, window_start, window_end) GROUP BY ws, we",
    );
    assert_eq!(plan.stages.len(), 3, "{:?}", operators(&plan));
    assert!(operators(&plan)[2][0].starts_with("WindowAggregate(HOP(end "), "{:?}", operators(&plan));
    assert!(plan.stages[1].changelog.iter().all(|note| note.rows == "+I"));
    assert!(plan.warnings.is_empty());
}

#[test]
fn sessions_of_a_partition_are_found_where_it_is_and_aggregated_by_their_bounds() {
    let function = described(
        "INSERT INTO windows SELECT COUNT(*), window_start, window_end
         FROM TABLE(SESSION(TABLE bid PARTITION BY auction, DESCRIPTOR(t), INTERVAL '10' SECOND))
         GROUP BY auction, window_start, window_end",
    );
    let grouped = described(
        "INSERT INTO windows SELECT COUNT(*), SESSION_START(t, INTERVAL '10' SECOND), SESSION_END(t, INTERVAL '10' SECOND)
         FROM bid GROUP BY auction, SESSION(t, INTERVAL '10' SECOND)",
    );
    assert_eq!(identities(&function), identities(&grouped));
    let names = operators(&function);
    assert!(names[1][0].starts_with("SessionAssign(by auction, SESSION(bid.t, 10s)"), "{names:?}");
    assert!(names[2][0].starts_with("WindowAggregate(by auction, window_start, SESSION(end "), "{names:?}");
    let by_two = described(
        "INSERT INTO windows SELECT price, window_start, window_end
         FROM TABLE(SESSION(DATA => TABLE bid PARTITION BY (auction, bidder), TIMECOL => DESCRIPTOR(t), GAP => INTERVAL '1' MINUTE))",
    );
    assert!(operators(&by_two)[1][0].starts_with("SessionAssign(by auction, bidder,"), "{:?}", operators(&by_two));
}

#[test]
fn grouping_sets_copy_rows_before_they_are_grouped() {
    let plan = described(
        "INSERT INTO two SELECT auction, COUNT(*) + GROUPING(auction) FROM bid GROUP BY GROUPING SETS ((auction), ())",
    );
    assert!(operators(&plan)[0].iter().any(|name| name == "Expand(2 sets)"), "{:?}", operators(&plan));
    let cube = described("INSERT INTO one SELECT COUNT(*) FROM bid GROUP BY CUBE (auction, bidder, channel)");
    assert!(operators(&cube)[0].iter().any(|name| name == "Expand(8 sets)"), "{:?}", operators(&cube));
    let windows = described(
        "INSERT INTO windows SELECT COUNT(*), window_start, window_end
         FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(t), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, ROLLUP (auction)",
    );
    assert!(windows.stages[1].operators[0].name.starts_with("WindowAggregate("), "{:?}", operators(&windows));
}

#[test]
fn calls_of_one_frame_are_one_operator() {
    let plan = described(
        "INSERT INTO two SELECT SUM(price) OVER w, COUNT(*) OVER w FROM bid
         WINDOW w AS (PARTITION BY auction ORDER BY t ROWS BETWEEN 9 PRECEDING AND CURRENT ROW)",
    );
    assert_eq!(plan.stages.len(), 2);
    let name = &operators(&plan)[1][0];
    assert!(name.starts_with("OverAggregate(by auction, ROWS 9 PRECEDING: SUM(price), COUNT(*)"), "{name}");
    let two = described(
        "INSERT INTO two SELECT LAG(price, 2, 0) OVER (PARTITION BY auction ORDER BY t),
         SUM(price) OVER (ORDER BY t RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND CURRENT ROW) FROM bid",
    );
    assert_eq!(two.stages.len(), 3, "{:?}", operators(&two));
    // A filter on what comes out of OVER is a filter.
    let filtered = described(
        "INSERT INTO one SELECT price FROM (SELECT price, SUM(price) OVER (PARTITION BY auction ORDER BY t) AS s FROM bid) WHERE s <= 1",
    );
    assert!(operators(&filtered)[1].iter().any(|name| name.starts_with("Filter")), "{:?}", operators(&filtered));
}

#[test]
fn a_window_function_alone_gives_its_columns_to_each_row() {
    let plan = described(
        "INSERT INTO windows SELECT price, window_start, window_end
         FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(t), INTERVAL '1' MINUTE))",
    );
    assert_eq!(plan.stages.len(), 1);
    assert!(
        plan.stages[0].operators.iter().any(|operator| operator.name.starts_with("WindowAssign(TUMBLE(bid.t, 1m)"))
    );
}

#[test]
fn conditions_on_windows_hold_above_the_aggregation() {
    let having = described(
        "INSERT INTO windows SELECT COUNT(*), window_start, window_end
         FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(t), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end
         HAVING window_start > TIMESTAMP '2020-01-01 00:00:00' AND COUNT(*) > 3",
    );
    let last = having.stages.last().unwrap();
    assert!(last.operators.iter().any(|operator| operator.name.starts_with("Filter(")), "{:?}", operators(&having));
    assert_eq!(having.stages.len(), 2);
}

#[test]
fn a_global_aggregate_meets_in_one_subtask_behind_a_pre_aggregation() {
    let graph = graph("INSERT INTO one SELECT COUNT(*) FROM bid WHERE price > 3");
    assert_eq!(graph.stages[1].inputs()[0].exchange, Exchange::Single);
    assert!(graph.stages[0].operators.last().unwrap().name.starts_with("LocalAggregate"));
    assert!(graph.stages[1].stateful && !graph.stages[0].stateful);
}

#[test]
fn distinct_rows_are_never_updated() {
    let script = "CREATE TABLE final (a BIGINT) WITH ('connector' = 'test', 'changelog' = 'false');
                  INSERT INTO final SELECT DISTINCT auction FROM bid";
    assert_eq!(described(script).stages.len(), 2);
}

#[test]
fn numbers_and_times_go_into_wider_columns_without_a_cast() {
    graph(
        "CREATE TABLE wide (a BIGINT, b DOUBLE, c DECIMAL(10, 2), d TIMESTAMP_LTZ(3), e INT, f STRING)
             WITH ('connector' = 'test');
         INSERT INTO wide SELECT CAST(auction AS INT), price, price * 2, t, CASE WHEN price > 3 THEN 1 ELSE 0 END,
             CAST(t AS STRING) FROM bid",
    );
    graph("INSERT INTO two (b) SELECT auction FROM bid");
}

#[test]
fn several_inserts_are_several_graphs_in_one() {
    let separate = described(
        "INSERT INTO one SELECT auction FROM bid; INSERT INTO two SELECT auction, COUNT(*) FROM bid GROUP BY auction;",
    );
    let set = described(
        "EXECUTE STATEMENT SET BEGIN INSERT INTO one SELECT auction FROM bid;
         INSERT INTO two SELECT auction, COUNT(*) FROM bid GROUP BY auction; END;",
    );
    assert_eq!(separate.stages.len(), 4);
    assert_eq!(set, separate);
    assert_eq!(separate.stages[3].inputs[0].from, 2);
    let twice = described("INSERT INTO one SELECT auction FROM bid; INSERT INTO one SELECT auction FROM bid;");
    assert_ne!(twice.stages[1].identity, twice.stages[2].identity);
    assert_ne!(twice.stages[1].sink, twice.stages[2].sink);
}

#[test]
fn common_table_expressions_and_qualified_names_work() {
    graph(
        "INSERT INTO two WITH cheap AS (SELECT auction, price FROM bid WHERE price < 100)
         SELECT c.auction, MAX(c.price) FROM cheap AS c GROUP BY c.auction HAVING MAX(c.price) > 5",
    );
}
