//! The Nexmark queries that the benchmark runs, as explained plans.

use crate::support::{NEXMARK, planned};
use weir_sql::explain;

fn golden(name: &str, script: &str) {
    let graph = planned(&format!("{NEXMARK}{script}")).unwrap_or_else(|error| panic!("{name}: {error}"));
    insta::assert_json_snapshot!(name, explain(&graph));
}

#[test]
fn q0_passes_bids_through() {
    golden(
        "q0",
        "CREATE TABLE s (auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, `dateTime` TIMESTAMP(3),
             extra VARCHAR) WITH ('connector' = 'test');
         INSERT INTO s SELECT auction, bidder, price, channel, url, dateTime, extra FROM bid;",
    );
}

#[test]
fn q1_multiplies_by_a_decimal() {
    golden(
        "q1",
        "CREATE TABLE s (auction BIGINT, bidder BIGINT, price DECIMAL(23, 3), `dateTime` TIMESTAMP(3), extra VARCHAR)
             WITH ('connector' = 'test');
         INSERT INTO s SELECT auction, bidder, 0.908 * price AS price, dateTime, extra FROM bid;",
    );
}

#[test]
fn q2_filters_by_a_remainder() {
    golden(
        "q2",
        "CREATE TABLE s (auction BIGINT, price BIGINT) WITH ('connector' = 'test');
         INSERT INTO s SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0;",
    );
}

#[test]
fn q7_finds_the_highest_price_of_a_window() {
    golden(
        "q7",
        "CREATE TABLE s (maxprice BIGINT, window_end TIMESTAMP(3)) WITH ('connector' = 'test');
         INSERT INTO s SELECT MAX(price) AS maxprice, window_end
         FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(dateTime), INTERVAL '10' SECOND)) GROUP BY window_start, window_end;",
    );
}

#[test]
fn q12_counts_in_windows_of_processing_time() {
    golden(
        "q12",
        "CREATE TABLE s (bidder BIGINT, bid_count BIGINT, starttime TIMESTAMP(3), endtime TIMESTAMP(3))
             WITH ('connector' = 'test');
         CREATE VIEW B AS SELECT *, PROCTIME() as p_time FROM bid;
         INSERT INTO s SELECT bidder, count(*) as bid_count, window_start AS starttime, window_end AS endtime
         FROM TABLE(TUMBLE(TABLE B, DESCRIPTOR(p_time), INTERVAL '10' SECOND)) GROUP BY bidder, window_start, window_end;",
    );
}

#[test]
fn q15_counts_distinct_values_under_filters() {
    golden(
        "q15",
        "CREATE TABLE s (`day` VARCHAR, total_bids BIGINT, rank1_bids BIGINT, rank2_bids BIGINT, rank3_bids BIGINT,
             total_bidders BIGINT, rank1_bidders BIGINT, rank2_bidders BIGINT, rank3_bidders BIGINT, total_auctions BIGINT,
             rank1_auctions BIGINT, rank2_auctions BIGINT, rank3_auctions BIGINT) WITH ('connector' = 'test');
         INSERT INTO s SELECT
             DATE_FORMAT(dateTime, 'yyyy-MM-dd') as `day`,
             count(*) AS total_bids,
             count(*) filter (where price < 10000) AS rank1_bids,
             count(*) filter (where price >= 10000 and price < 1000000) AS rank2_bids,
             count(*) filter (where price >= 1000000) AS rank3_bids,
             count(distinct bidder) AS total_bidders,
             count(distinct bidder) filter (where price < 10000) AS rank1_bidders,
             count(distinct bidder) filter (where price >= 10000 and price < 1000000) AS rank2_bidders,
             count(distinct bidder) filter (where price >= 1000000) AS rank3_bidders,
             count(distinct auction) AS total_auctions,
             count(distinct auction) filter (where price < 10000) AS rank1_auctions,
             count(distinct auction) filter (where price >= 10000 and price < 1000000) AS rank2_auctions,
             count(distinct auction) filter (where price >= 1000000) AS rank3_auctions
         FROM bid GROUP BY DATE_FORMAT(dateTime, 'yyyy-MM-dd');",
    );
}

#[test]
fn q16_groups_by_channel_and_day() {
    golden(
        "q16",
        "CREATE TABLE s (channel VARCHAR, `day` VARCHAR, `minute` VARCHAR, total_bids BIGINT, rank1_bids BIGINT,
             total_bidders BIGINT, rank1_bidders BIGINT, total_auctions BIGINT) WITH ('connector' = 'test');
         INSERT INTO s SELECT
             channel,
             DATE_FORMAT(dateTime, 'yyyy-MM-dd') as `day`,
             max(DATE_FORMAT(dateTime, 'HH:mm')) as `minute`,
             count(*) AS total_bids,
             count(*) filter (where price < 10000) AS rank1_bids,
             count(distinct bidder) AS total_bidders,
             count(distinct bidder) filter (where price < 10000) AS rank1_bidders,
             count(distinct auction) AS total_auctions
         FROM bid GROUP BY channel, DATE_FORMAT(dateTime, 'yyyy-MM-dd');",
    );
}

#[test]
fn q11_counts_a_bidders_sessions() {
    golden(
        "q11",
        "CREATE TABLE s (bidder BIGINT, bid_count BIGINT, starttime TIMESTAMP(3), endtime TIMESTAMP(3))
             WITH ('connector' = 'test');
         INSERT INTO s SELECT
             B.bidder,
             count(*) as bid_count,
             window_start AS starttime,
             window_end AS endtime
         FROM TABLE(SESSION(TABLE bid PARTITION BY bidder, DESCRIPTOR(dateTime), INTERVAL '10' SECOND)) AS B
         GROUP BY bidder, window_start, window_end;",
    );
}

#[test]
fn q17_aggregates_an_auctions_day() {
    golden(
        "q17",
        "CREATE TABLE s (auction BIGINT, `day` VARCHAR, total_bids BIGINT, rank1_bids BIGINT, rank2_bids BIGINT,
             rank3_bids BIGINT, min_price BIGINT, max_price BIGINT, avg_price BIGINT, sum_price BIGINT)
             WITH ('connector' = 'test');
         INSERT INTO s SELECT
             auction,
             DATE_FORMAT(dateTime, 'yyyy-MM-dd') as `day`,
             count(*) AS total_bids,
             count(*) filter (where price < 10000) AS rank1_bids,
             count(*) filter (where price >= 10000 and price < 1000000) AS rank2_bids,
             count(*) filter (where price >= 1000000) AS rank3_bids,
             min(price) AS min_price,
             max(price) AS max_price,
             avg(price) AS avg_price,
             sum(price) AS sum_price
         FROM bid GROUP BY auction, DATE_FORMAT(dateTime, 'yyyy-MM-dd');",
    );
}

#[test]
fn q18_keeps_the_last_bid_of_each_bidder_on_an_auction() {
    golden(
        "q18",
        "CREATE TABLE s (auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR,
             `dateTime` TIMESTAMP(3), extra VARCHAR) WITH ('connector' = 'test');
         INSERT INTO s SELECT auction, bidder, price, channel, url, dateTime, extra
         FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY bidder, auction ORDER BY dateTime DESC) AS rank_number FROM bid)
         WHERE rank_number <= 1;",
    );
}

#[test]
fn kc_counts_and_sums_by_bidder() {
    golden(
        "kc",
        "CREATE TABLE s (bidder BIGINT, bids BIGINT, total BIGINT) WITH ('connector' = 'test');
         INSERT INTO s SELECT bidder, COUNT(*), SUM(price) FROM bid GROUP BY bidder;",
    );
}

#[test]
fn without_pushdown_every_column_is_made() {
    golden(
        "kc_every_column",
        "SET 'weir.projection-pushdown' = 'false';
         CREATE TABLE s (bidder BIGINT, bids BIGINT, total BIGINT) WITH ('connector' = 'test');
         INSERT INTO s SELECT bidder, COUNT(*), SUM(price) FROM bid GROUP BY bidder;",
    );
}
