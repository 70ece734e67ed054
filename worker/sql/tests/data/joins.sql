-- Joins within bounds of time and of windows, and the first rows of windows, and what Flink says of them: `answers/generate.sh --changes`
-- asks for `joins.jsonl`. No row is late.

CREATE TABLE t (k INT, v BIGINT, s STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '2' SECOND);

CREATE VIEW l AS SELECT k, v, ts FROM t WHERE s = 'l' OR s = 'b';
CREATE VIEW r AS SELECT k, v, ts FROM t WHERE s = 'r' OR s = 'b';
CREATE VIEW lw AS SELECT * FROM TABLE(TUMBLE(TABLE l, DESCRIPTOR(ts), INTERVAL '3' SECOND));
CREATE VIEW rw AS SELECT * FROM TABLE(TUMBLE(TABLE r, DESCRIPTOR(ts), INTERVAL '3' SECOND));
CREATE VIEW lh AS SELECT * FROM TABLE(HOP(TABLE l, DESCRIPTOR(ts), INTERVAL '2' SECOND, INTERVAL '4' SECOND));
CREATE VIEW rh AS SELECT * FROM TABLE(HOP(TABLE r, DESCRIPTOR(ts), INTERVAL '2' SECOND, INTERVAL '4' SECOND));
CREATE VIEW lc AS SELECT * FROM TABLE(CUMULATE(TABLE l, DESCRIPTOR(ts), INTERVAL '2' SECOND, INTERVAL '6' SECOND));
CREATE VIEW rc AS SELECT * FROM TABLE(CUMULATE(TABLE r, DESCRIPTOR(ts), INTERVAL '2' SECOND, INTERVAL '6' SECOND));
CREATE VIEW sums AS SELECT k, window_start, window_end, window_time, SUM(v) AS total, COUNT(*) AS n FROM lw GROUP BY k, window_start, window_end, window_time;
CREATE VIEW counts AS SELECT k, window_start, window_end, COUNT(*) AS n FROM rw GROUP BY k, window_start, window_end;
CREATE VIEW pairs AS SELECT l.k, l.v, r.v AS w, l.ts, r.ts AS u FROM l JOIN r ON l.k = r.k AND l.ts BETWEEN r.ts - INTERVAL '1' SECOND AND r.ts + INTERVAL '2' SECOND;

ROWS some
2|5|r|2020-01-01 00:00:00.000
3|NULL|b|2020-01-01 00:00:00.000
2|4|l|2020-01-01 00:00:00.000
NULL|4|b|2020-01-01 00:00:00.596
1|-1|r|2020-01-01 00:00:00.801
3|8|l|2020-01-01 00:00:00.616
2|-1|r|2020-01-01 00:00:01.000
NULL|NULL|l|2020-01-01 00:00:01.000
NULL|2|l|2020-01-01 00:00:01.409
2|-2|l|2020-01-01 00:00:02.000
3|5|b|2020-01-01 00:00:01.976
3|3|r|2020-01-01 00:00:02.117
1|-3|r|2020-01-01 00:00:01.531
2|-3|l|2020-01-01 00:00:01.000
NULL|5|l|2020-01-01 00:00:03.000
NULL|7|b|2020-01-01 00:00:02.580
3|-1|r|2020-01-01 00:00:02.000
2|7|l|2020-01-01 00:00:02.778
NULL|2|r|2020-01-01 00:00:04.072
3|NULL|r|2020-01-01 00:00:03.792
3|-1|b|2020-01-01 00:00:03.973
1|6|l|2020-01-01 00:00:03.440
NULL|0|r|2020-01-01 00:00:04.854
NULL|-1|r|2020-01-01 00:00:03.000
2|-1|r|2020-01-01 00:00:05.954
NULL|6|b|2020-01-01 00:00:05.695
3|8|r|2020-01-01 00:00:06.000
1|6|l|2020-01-01 00:00:06.140
2|2|l|2020-01-01 00:00:05.180
3|1|r|2020-01-01 00:00:06.505
1|-2|b|2020-01-01 00:00:06.154
3|3|r|2020-01-01 00:00:07.978
1|6|r|2020-01-01 00:00:08.000
3|6|l|2020-01-01 00:00:08.503
2|4|l|2020-01-01 00:00:07.667
3|2|b|2020-01-01 00:00:07.556
3|-2|r|2020-01-01 00:00:08.064
3|1|b|2020-01-01 00:00:08.053
3|0|l|2020-01-01 00:00:09.000
2|-3|b|2020-01-01 00:00:09.994
NULL|-3|r|2020-01-01 00:00:09.656
1|7|b|2020-01-01 00:00:09.553
2|4|b|2020-01-01 00:00:10.379
1|-2|r|2020-01-01 00:00:10.000
1|4|b|2020-01-01 00:00:09.000
1|-2|r|2020-01-01 00:00:11.088
1|6|r|2020-01-01 00:00:11.186
3|-2|r|2020-01-01 00:00:11.116

QUERIES
SELECT l.k, l.v, r.k, r.v, l.ts, r.ts FROM l FULL JOIN r ON l.k = r.k AND l.ts BETWEEN r.ts - INTERVAL '1' SECOND AND r.ts + INTERVAL '2' SECOND;
SELECT l.k, l.v, r.v FROM l LEFT JOIN r ON l.k = r.k AND l.ts > r.ts - INTERVAL '2' SECOND AND l.ts <= r.ts AND l.v < r.v;
SELECT l.k, l.v, r.v FROM l FULL JOIN r ON l.k = r.k AND l.ts = r.ts;
SELECT l.k, l.v, r.v FROM l RIGHT JOIN r ON l.k = r.k AND r.ts BETWEEN l.ts + INTERVAL '1' SECOND AND l.ts + INTERVAL '3' SECOND;
SELECT l.k, l.v, r.v FROM l, r WHERE l.k = r.k AND l.ts >= r.ts AND l.ts < r.ts + INTERVAL '1' SECOND AND l.v + r.v > 3;
SELECT window_start, COUNT(*), SUM(v), SUM(w) FROM TABLE(TUMBLE(TABLE pairs, DESCRIPTOR(u), INTERVAL '3' SECOND)) GROUP BY window_start, window_end;
SELECT lh.k, lh.v, rh.k, rh.v, lh.window_end, rh.window_start FROM lh FULL JOIN rh ON lh.k = rh.k AND lh.window_start = rh.window_start AND lh.window_end = rh.window_end;
SELECT lw.k, lw.v, rw.v FROM lw LEFT JOIN rw ON lw.k = rw.k AND lw.window_start = rw.window_start AND lw.window_end = rw.window_end AND lw.v < rw.v;
SELECT lc.k, lc.v, rc.k, rc.v, lc.window_end, rc.window_start FROM lc RIGHT JOIN rc ON lc.k = rc.k AND lc.window_start = rc.window_start AND lc.window_end = rc.window_end;
SELECT s.k, s.total, c.n, s.window_end FROM sums s FULL JOIN counts c ON s.k = c.k AND s.window_start = c.window_start AND s.window_end = c.window_end;
SELECT lw.k, lw.v FROM lw WHERE EXISTS (SELECT * FROM rw WHERE rw.k = lw.k AND rw.window_start = lw.window_start AND rw.window_end = lw.window_end);
SELECT lw.k, lw.v FROM lw WHERE NOT EXISTS (SELECT * FROM rw WHERE rw.k = lw.k AND rw.window_start = lw.window_start AND rw.window_end = lw.window_end);
SELECT a.window_start, COUNT(*), SUM(a.v) FROM (SELECT lw.window_start, lw.window_end, lw.v FROM lw JOIN rw ON lw.k = rw.k AND lw.window_start = rw.window_start AND lw.window_end = rw.window_end) a GROUP BY a.window_start, a.window_end;
SELECT k, v, window_end, rn FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end, k ORDER BY v DESC) AS rn FROM lw) WHERE rn <= 2;
SELECT k, v, ts FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end, k ORDER BY ts) AS rn FROM lw) WHERE rn = 1;
SELECT k, v, ts FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end, k ORDER BY ts DESC) AS rn FROM lw) WHERE rn = 1;
SELECT window_start, COUNT(*), SUM(v) FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end, k ORDER BY v DESC) AS rn FROM lw) WHERE rn <= 2 GROUP BY window_start, window_end;
