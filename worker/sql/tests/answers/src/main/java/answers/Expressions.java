package answers;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * What is asked. Columns are a, b, c …; {@link #each} asks an expression of every edge value of a type, {@link #rows} of the rows that
 * are written out, {@link #plain} without a column. A new function is a few lines in {@link #all}.
 */
final class Expressions {
    private static final String NULL = null;
    private static final String PI = "3.141592653589793";

    private final Map<String, Answers.Asked> asked = new LinkedHashMap<>();
    private final Map<String, List<String>> edges = new LinkedHashMap<>();

    Expressions() {
        edge("BOOLEAN", NULL, "true", "false");
        edge("TINYINT", NULL, "0", "1", "-1", "7", "127", "-128");
        edge("SMALLINT", NULL, "0", "-1", "123", "32767", "-32768");
        edge("INT", NULL, "0", "1", "-1", "1234567", "2147483647", "-2147483648");
        edge("BIGINT", NULL, "0", "1", "-1", "-12", "1234567890123", "9223372036854775807", "-9223372036854775808");
        edge("FLOAT", NULL, "0.0", "-0.0", "1.5", "-2.5", "0.1", "16777216", "1.0E10", "3.4028235E38", "1.4E-45", "NaN", "Infinity", "-Infinity");
        edge("DOUBLE", NULL, "0.0", "-0.0", "0.5", "2.5", "-2.5", "0.1", "1.005", "1.0E7", "12345678.9", "0.001", "1.0E-4", "-1.0E300",
                "1.7976931348623157E308", "4.9E-324", "9.223372036854775807E18", "NaN", "Infinity", "-Infinity");
        edge("DECIMAL(10, 2)", NULL, "0.00", "1.00", "-1.00", "12.50", "-12.55", "0.05", "99999999.99", "-99999999.99");
        edge("DECIMAL(38, 18)", NULL, "0.000000000000000000", "1.500000000000000000", "-0.000000000000000001", "99999999999999999999.999999999999999999");
        edge("DECIMAL(38, 0)", NULL, "0", "-7", "99999999999999999999999999999999999999");
        edge("DECIMAL(5, 5)", NULL, "0.00000", "0.12345", "-0.99999");
        edge("STRING", NULL, "", " ", "a", "hello", "Hello wORLD-x", "  padded  ", "ÄÖÜß straße", "x😀y", "日本語", "123");
        edge("BYTES", NULL, "", "00", "48656c6c6f", "ff80");
        edge("DATE", NULL, "1970-01-01", "1969-12-31", "2000-02-29", "2024-02-29", "2024-12-30", "2021-01-03", "1900-01-01", "0001-01-01", "9999-12-31");
        edge("TIME(3)", NULL, "00:00:00", "23:59:59.999", "12:34:56.789");
        edge("TIME(0)", NULL, "00:00:00", "23:59:59", "12:34:56");
        edge("TIMESTAMP(0)", NULL, "1970-01-01 00:00:00", "1969-12-31 23:59:59", "2024-02-29 12:34:56");
        edge("TIMESTAMP(3)", NULL, "1970-01-01 00:00:00", "1969-12-31 23:59:59.999", "2024-02-29 12:34:56.789", "2000-12-31 23:59:59.5", "1600-03-01 01:02:03.004",
                "0001-01-01 00:00:00", "9999-12-31 23:59:59.999");
        edge("TIMESTAMP(6)", NULL, "1969-12-31 23:59:59.999999", "2024-02-29 12:34:56.123456", "1970-01-01 00:00:00.00001");
        edge("TIMESTAMP(9)", NULL, "1969-12-31 23:59:59.999999999", "2024-02-29 12:34:56.123456789", "1970-01-01 00:00:00.1");
        edge("TIMESTAMP_LTZ(3)", NULL, "1970-01-01 00:00:00", "1969-12-31 23:59:59.999", "2024-02-29 12:34:56.789", "2021-01-03 00:00:00");
        edge("TIMESTAMP_LTZ(6)", NULL, "1969-12-31 23:59:59.999999", "2024-02-29 12:34:56.123456");
    }

    List<Answers.Asked> all() {
        literals();
        arithmetic();
        comparisons();
        conditions();
        casts();
        numbers();
        texts();
        patterns();
        times();
        return new ArrayList<>(asked.values());
    }

    private void literals() {
        plain("1", "-1", "2147483647", "2147483648", "-2147483648", "9223372036854775807", "1.5", "-0.25", "1e3", "1.5E-3", "100.", ".5", "TRUE", "'it''s'", "''",
                "1 + 1", "1 + 1.5", "1.5 + 2.25", "1.5 * 1.5", "7 / 2", "-7 / 2", "7 % -2", "1.0 / 3", "1 / 3.0", "10 / 4.0", "2147483647 + 1", "1e0 + 1", "0.1 + 0.2",
                "1.5 = 1.50", "1 = 1.0", "'a' = 'a '", "'a' < 'B'", "NULL IS NULL", "1 < 2 AND 2 < 3", "NOT TRUE OR TRUE", "2 BETWEEN 1 AND 3", "3 NOT BETWEEN 1 AND 2", "3 IN (1, 2, 3)",
                "3 NOT IN (1, 2)", "1 IN (1.0, 2)", "'a' IN ('a', 'b')", "DATE '2024-02-29'", "TIME '12:34:56'", "TIMESTAMP '2024-02-29 12:34:56'", "TIMESTAMP '2024-02-29 12:34:56.789'",
                "TIMESTAMP '2024-02-29 12:34:56.123456'", "TIMESTAMP '1969-12-31 23:59:59.9'", "x'48656C'", "DATE '2024-01-31' + INTERVAL '1' MONTH", "PI()", "PI", "E()",
                "'a' || 'b'", "'a' || NULL", "CHAR_LENGTH('x😀y')", "U&'\\00e4'", "_UTF16'x'", "INTERVAL '1' DAY = INTERVAL '24' HOUR", "CASE WHEN TRUE THEN 1 ELSE 2.5 END", "COALESCE(NULL, 1)", "+5", "- - 5", "12345678901234567890", "0.00001", "1E400");
    }

    private void arithmetic() {
        String[] whole = {"TINYINT", "SMALLINT", "INT", "BIGINT"};
        String[] numbers = {"TINYINT", "SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL(10, 2)", "DECIMAL(38, 18)", "DECIMAL(38, 0)", "DECIMAL(5, 5)"};
        for (String type : numbers) each("-a", type);
        for (String left : numbers) {
            for (String right : numbers) {
                String[][] rows = zip(left, right);
                for (String sql : new String[] {"a + b", "a - b", "a * b", "a / b", "a % b"}) rows(sql, of(left, right), rows);
            }
        }
        for (String type : whole) rows("MOD(a, b)", of(type, "INT"), row("7", "3"), row("-7", "3"), row("7", "-3"), row("7", "0"), row(NULL, "3"), row("7", NULL));
        rows("MOD(a, b)", of("DECIMAL(10, 2)", "INT"), row("7.50", "2"), row("-7.50", "2"), row("7.50", "0"), row(NULL, "2"));
        rows("MOD(a, b)", of("DECIMAL(10, 2)", "DECIMAL(5, 3)"), row("7.50", "2.125"), row("-7.50", "2.125"));
        rows("MOD(a, b)", of("DOUBLE", "DOUBLE"), row("7.5", "2.0"), row("-7.5", "2.0"), row("7.5", "0.0"));
        rows("a / b", of("INT", "INT"), row("7", "2"), row("-7", "2"), row("7", "0"), row("0", "0"), row(NULL, "0"), row("7", NULL));
        rows("a / b", of("BIGINT", "BIGINT"), row("7", "0"), row("-9223372036854775808", "-1"));
        rows("a / b", of("INT", "INT"), row("-2147483648", "-1"));
        rows("a % b", of("INT", "INT"), row("7", "0"), row("-7", "2"), row("-2147483648", "-1"));
        rows("a / b", of("DOUBLE", "DOUBLE"), row("1.0", "0.0"), row("-1.0", "0.0"), row("0.0", "0.0"), row("1.0", "-0.0"));
        rows("a % b", of("DOUBLE", "DOUBLE"), row("7.5", "2.0"), row("-7.5", "2.0"), row("7.5", "0.0"));
        rows("a / b", of("DECIMAL(10, 2)", "DECIMAL(10, 2)"), row("10.00", "3.00"), row("1.00", "0.00"), row("-10.00", "3.00"), row("0.01", "99999999.99"), row(NULL, "1.00"));
        rows("a * b", of("DECIMAL(38, 19)", "DECIMAL(38, 19)"), row("10.1000000000000000000", "10.2000000000000000000"), row("9999999999999999999.0", "9999999999999999999.0"));
        rows("a * b", of("DECIMAL(38, 10)", "DECIMAL(38, 10)"), row("123456789012.5", "987654321098.5"), row("-1.5", "0.3333333333"));
        rows("a + b", of("DECIMAL(38, 3)", "DECIMAL(38, 3)"), row("99999999999999999999999999999999999.999", "99999999999999999999999999999999999.999"), row("1.125", "2.25"));
        rows("a - b", of("DECIMAL(38, 3)", "DECIMAL(38, 30)"), row("99999999999999999999999999999999999.999", "-1"), row("1.125", "0.123456789012345678901234567891"));
        rows("a / b", of("DECIMAL(38, 3)", "DECIMAL(38, 30)"), row("1.125", "0.000000000000000000000000000001"), row("1.125", "3"));
        rows("a % b", of("DECIMAL(38, 3)", "DECIMAL(38, 30)"), row("10.125", "0.7"), row("-10.125", "0.7"), row("1", "0"));
        for (String sql : new String[] {"a + b", "a * b", "a / b", "a % b"}) rows(sql, of("DECIMAL(20, 10)", "DECIMAL(15, 5)"), row("1.5", "2.5"), row("9999999999.9999999999", "9999999999.99999"), row("-1.0000000001", "0.00001"), row("2.0", "3.0"));
        rows("a * 2", of("DECIMAL(10, 2)"), row("12.50"));
        rows("a * 0.908", of("BIGINT"), row("1234567"), row("-1"), row(NULL));
        rows("a * 1.5", of("DOUBLE"), row("2.5"), row("NaN"));
        rows("a + 0.5", of("FLOAT"), row("2.5"));
        rows("a / 3.0", of("INT"), row("10"), row("-1"));
        rows("a + 1", of("TINYINT"), row("127"));
        rows("a * a", of("BIGINT"), row("9223372036854775807"), row("3037000500"));
        rows("a - b", of("BIGINT", "BIGINT"), row("-9223372036854775808", "1"));
        rows("a + b", of("STRING", "INT"), row("1", "2"), row("x", "2"));
        rows("a * b", of("STRING", "DOUBLE"), row("1.5", "2"));
        rows("a + b", of("BOOLEAN", "INT"), row("true", "1"));
    }

    private void comparisons() {
        String[] operators = {"a = b", "a <> b", "a < b", "a >= b"};
        String[][] doubles = {row("NaN", "NaN"), row("NaN", "0.0"), row("0.0", "NaN"), row("-0.0", "0.0"), row("0.0", "-0.0"), row("Infinity", "NaN"), row("Infinity", "Infinity"),
            row("-Infinity", "Infinity"), row("1.5", "1.5"), row(NULL, "NaN"), row("1.0", NULL)};
        for (String sql : new String[] {"a = b", "a <> b", "a < b", "a <= b", "a > b", "a >= b", "a IS DISTINCT FROM b", "a IS NOT DISTINCT FROM b"}) {
            rows(sql, of("DOUBLE", "DOUBLE"), doubles);
            rows(sql, of("FLOAT", "DOUBLE"), row("0.1", "0.1"), row("NaN", "NaN"), row("-0.0", "0.0"), row("1.5", "1.5"));
        }
        for (String sql : new String[] {"a = 0", "a > 0", "a < 0", "a >= 0", "a <> 0", "a = a", "a <> a", "a BETWEEN -1 AND 1", "a IN (0, 1)", "a NOT IN (0, 1)", "NOT (a < 0)", "a IS NULL"}) each(sql, "DOUBLE");
        for (String sql : operators) {
            rows(sql, of("INT", "DOUBLE"), row("1", "1.0"), row("2147483647", "2147483647.5"), row("0", "-0.0"), row("1", "NaN"));
            rows(sql, of("BIGINT", "DOUBLE"), row("9007199254740993", "9007199254740992"), row("1", "NaN"), row("9223372036854775807", "9.223372036854775807E18"));
            rows(sql, of("BIGINT", "FLOAT"), row("16777217", "16777216"), row("1", "1.0"));
            rows(sql, of("TINYINT", "BIGINT"), row("-128", "-128"), row("127", "128"));
            rows(sql, of("DECIMAL(10, 2)", "DECIMAL(38, 18)"), row("1.50", "1.5"), row("1.50", "1.500000000000000001"), row("-1.00", "1.0"));
            rows(sql, of("DECIMAL(38, 0)", "DECIMAL(38, 18)"), row("99999999999999999999999999999999999999", "1.5"), row("1", "1"), row("-1", "1"));
            rows(sql, of("DECIMAL(10, 2)", "INT"), row("1.00", "1"), row("1.01", "1"), row("-1.00", "2147483647"));
            rows(sql, of("DECIMAL(10, 2)", "DOUBLE"), row("1.10", "1.1"), row("1.00", "NaN"));
            rows(sql, of("STRING", "STRING"), row("a", "a"), row("a", "B"), row("a", "a "), row("", "a"), row("ä", "z"), row("😀", "｡"), row(NULL, "a"));
            rows(sql, of("STRING", "INT"), row("1", "1"), row(" 1 ", "1"), row("10", "9"), row("1.0", "1"), row("x", "1"));
            rows(sql, of("STRING", "DOUBLE"), row("1.0", "1"), row("NaN", "1"));
            rows(sql, of("BOOLEAN", "BOOLEAN"), row("true", "false"), row("true", "true"), row("false", NULL));
            rows(sql, of("STRING", "BOOLEAN"), row("true", "true"), row("1", "true"));
            rows(sql, of("BYTES", "BYTES"), row("00", "ff"), row("", "00"), row("80", "7f"), row("6162", "6162"));
            rows(sql, of("DATE", "DATE"), row("2024-02-29", "2024-03-01"), row("1969-12-31", "1970-01-01"));
            rows(sql, of("DATE", "TIMESTAMP(3)"), row("2024-02-29", "2024-02-29 00:00:00"), row("2024-02-29", "2024-02-29 00:00:00.001"));
            rows(sql, of("STRING", "DATE"), row("2024-02-29", "2024-02-29"), row("2024-2-29", "2024-02-29"), row("x", "2024-02-29"));
            rows(sql, of("STRING", "TIMESTAMP(3)"), row("2024-02-29 12:00:00", "2024-02-29 12:00:00"), row("2024-02-29", "2024-02-29 00:00:00"));
            rows(sql, of("TIMESTAMP(3)", "TIMESTAMP(9)"), row("2024-02-29 12:00:00", "2024-02-29 12:00:00.000000001"), row("1969-12-31 23:59:59.999", "1969-12-31 23:59:59.999"));
            rows(sql, of("TIMESTAMP(3)", "TIMESTAMP_LTZ(3)"), row("2024-02-29 12:00:00", "2024-02-29 12:00:00"));
            rows(sql, of("TIME(3)", "TIME(3)"), row("12:00:00", "12:00:00.001"));
            rows(sql, of("INT", "BOOLEAN"), row("1", "true"));
            rows(sql, of("DATE", "INT"), row("1970-01-01", "0"));
        }
        rows("a IN (1, 2, NULL)", of("INT"), row("1"), row("3"), row(NULL));
        rows("a NOT IN (1, 2, NULL)", of("INT"), row("1"), row("3"), row(NULL));
        rows("a IN ('1', '2')", of("INT"), row("1"), row("3"));
        rows("a IN (1, 2.5)", of("INT"), row("1"), row("2"));
        rows("a BETWEEN b AND c", of("INT", "INT", "INT"), row("2", "1", "3"), row("2", "3", "1"), row("2", NULL, "1"), row("2", "1", NULL), row(NULL, "1", "3"));
        rows("a BETWEEN SYMMETRIC b AND c", of("INT", "INT", "INT"), row("2", "3", "1"));
        rows("a NOT BETWEEN b AND c", of("INT", "INT", "INT"), row("2", "3", "1"), row("2", "1", NULL), row("5", "1", NULL));
        rows("a IS DISTINCT FROM b", of("INT", "INT"), row(NULL, NULL), row("1", NULL), row("1", "1"));
        rows("a = '2024-02-29'", of("DATE"), row("2024-02-29"), row("2024-02-28"));
        rows("a > '2024-02-29 12:00:00'", of("TIMESTAMP(3)"), row("2024-02-29 12:00:00"), row("2024-02-29 12:00:00.001"));
        rows("a > TIMESTAMP '2024-02-29 12:00:00'", of("TIMESTAMP_LTZ(3)"), row("2024-02-29 12:00:00"), row("2024-02-29 12:00:00.001"));
    }

    private void conditions() {
        for (String sql : new String[] {"a AND b", "a OR b", "a = b"}) {
            for (String left : new String[] {"true", "false", NULL}) {
                for (String right : new String[] {"true", "false", NULL}) rows(sql, of("BOOLEAN", "BOOLEAN"), row(left, right));
            }
        }
        for (String sql : new String[] {"NOT a", "a IS TRUE", "a IS NOT TRUE", "a IS FALSE", "a IS NOT FALSE", "a IS UNKNOWN", "a IS NOT UNKNOWN", "a IS NULL", "a IS NOT NULL", "IF(a, 1, 2)", "IF(a, 'x', NULL)",
            "CASE WHEN a THEN 1 ELSE 2 END", "CASE WHEN a THEN 'yes' END", "CASE a WHEN TRUE THEN 1 WHEN FALSE THEN 0 END"}) each(sql, "BOOLEAN");
        for (String sql : new String[] {"CASE WHEN a > 0 THEN 1 ELSE 2.5 END", "CASE WHEN a > 0 THEN 'a' ELSE 'long' END", "CASE a WHEN 1 THEN 'one' WHEN 0 THEN 'zero' ELSE 'other' END", "CASE WHEN a > 0 THEN 10 / a ELSE 0 END",
            "CASE WHEN a = 0 THEN 0 ELSE 10 / a END", "COALESCE(a, 0)", "COALESCE(a, 5, 6)", "COALESCE(a, 1.5)", "NULLIF(a, 1)", "NULLIF(a, 0)", "IFNULL(a, 7)", "IF(a > 0, a, -a)", "IF(a > 0, 1.5, 2)", "IF(a > 0, CAST(1 AS BIGINT), 2)"}) each(sql, "INT");
        rows("COALESCE(a, b)", of("INT", "BIGINT"), row("1", "2"), row(NULL, "2"), row(NULL, NULL));
        rows("COALESCE(a, b)", of("INT", "DOUBLE"), row("1", "2.5"), row(NULL, "2.5"));
        rows("COALESCE(a, b)", of("INT", "DECIMAL(10, 2)"), row("1", "2.50"), row(NULL, "2.50"));
        rows("COALESCE(a, b)", of("BIGINT", "DECIMAL(10, 2)"), row("1", "2.50"), row(NULL, "2.50"));
        rows("COALESCE(a, b)", of("DECIMAL(5, 5)", "DECIMAL(10, 2)"), row("0.12345", "2.50"), row(NULL, "2.50"));
        rows("COALESCE(a, b)", of("FLOAT", "DECIMAL(10, 2)"), row("0.5", "2.50"), row(NULL, "2.50"));
        rows("COALESCE(a, b)", of("STRING", "STRING"), row(NULL, "x"), row("", "x"));
        rows("COALESCE(a, b)", of("STRING", "INT"), row("s", "1"), row(NULL, "1"));
        rows("COALESCE(a, b)", of("DATE", "TIMESTAMP(3)"), row("2024-02-29", "2024-02-29 01:00:00"), row(NULL, "2024-02-29 01:00:00"));
        rows("COALESCE(a, b)", of("TIMESTAMP(3)", "TIMESTAMP(9)"), row("2024-02-29 01:00:00.5", "2024-02-29 01:00:00"), row(NULL, "2024-02-29 01:00:00.123456789"));
        rows("NULLIF(a, b)", of("STRING", "STRING"), row("a", "a"), row("a", "b"), row(NULL, "a"), row("a", NULL));
        rows("NULLIF(a, b)", of("DOUBLE", "DOUBLE"), row("NaN", "NaN"), row("-0.0", "0.0"), row("1.0", "1.0"));
        rows("NULLIF(a, b)", of("INT", "BIGINT"), row("1", "1"), row("1", "2"));
        rows("NULLIF(a, b)", of("INT", "DECIMAL(10, 2)"), row("1", "1.00"), row("1", "2.00"));
        rows("IFNULL(a, b)", of("INT", "BIGINT"), row("1", "2"), row(NULL, "2"));
        rows("IFNULL(a, b)", of("STRING", "STRING"), row(NULL, "x"), row("a", NULL));
        rows("IF(a, b, c)", of("BOOLEAN", "INT", "BIGINT"), row("true", "1", "2"), row("false", "1", "2"), row(NULL, "1", "2"));
        rows("IF(a, b, c)", of("BOOLEAN", "STRING", "STRING"), row("true", "1", "2"), row("false", "1", NULL));
        rows("IF(a, b, c)", of("BOOLEAN", "DECIMAL(10, 2)", "INT"), row("true", "1.25", "2"), row("false", "1.25", "2"));
        rows("CASE WHEN a THEN b ELSE c END", of("BOOLEAN", "INT", "DOUBLE"), row("true", "1", "2.5"), row("false", "1", "2.5"));
        rows("CASE WHEN a THEN b ELSE c END", of("BOOLEAN", "DECIMAL(10, 2)", "DECIMAL(38, 18)"), row("true", "1.25", "2.5"), row("false", "1.25", "2.5"));
        rows("CASE WHEN a THEN b ELSE c END", of("BOOLEAN", "DECIMAL(10, 2)", "BIGINT"), row("true", "1.25", "2"), row("false", "1.25", "2"));
        rows("CASE WHEN a THEN b ELSE c END", of("BOOLEAN", "TINYINT", "SMALLINT"), row("true", "1", "2"));
        rows("CASE WHEN a THEN b ELSE c END", of("BOOLEAN", "STRING", "INT"), row("true", "x", "2"));
        rows("CASE WHEN a THEN b ELSE c END", of("BOOLEAN", "DATE", "TIMESTAMP(3)"), row("true", "2024-02-29", "2024-02-29 01:00:00"));
        for (String sql : new String[] {"GREATEST(a, b)", "LEAST(a, b)"}) rows(sql, of("INT", "BIGINT"), row("1", "2"), row(NULL, "2"));
    }

    private void casts() {
        String[] from = {"BOOLEAN", "TINYINT", "SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL(10, 2)", "DECIMAL(38, 18)", "DECIMAL(38, 0)", "BYTES", "DATE", "TIME(3)", "TIME(0)", "TIMESTAMP(0)", "TIMESTAMP(3)", "TIMESTAMP(6)",
            "TIMESTAMP(9)", "TIMESTAMP_LTZ(3)", "TIMESTAMP_LTZ(6)"};
        String[] to = {"BOOLEAN", "TINYINT", "SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL(10, 2)", "DECIMAL(38, 18)", "DECIMAL(3, 0)", "STRING", "BYTES", "DATE", "TIME", "TIMESTAMP(3)", "TIMESTAMP(6)", "TIMESTAMP(9)",
            "TIMESTAMP_LTZ(3)", "TIMESTAMP_LTZ(6)"};
        for (String source : from) {
            for (String target : to) {
                boolean numbers = number(source) && number(target);
                if (numbers || target.equals("STRING") || source.equals("TIMESTAMP(3)") || source.startsWith("TIMESTAMP(9")) each("CAST(a AS " + target + ")", source);
                else rows("CAST(a AS " + target + ")", of(source), few(source, 4));
                rows("TRY_CAST(a AS " + target + ")", of(source), few(source, numbers ? 20 : 3));
            }
        }
        String[] whole = {NULL, "", " ", "0", "1", "-1", "+7", " 12 ", "1.5", "1.999", "-0.5", ".5", "5.", "1e2", "abc", "1 2", "127", "128", "-129", "32768", "2147483648", "9223372036854775807", "9223372036854775808", "0x10", "1_000", "1L", "１２", "true", "NaN", "- 1"};
        for (String target : new String[] {"TINYINT", "INT", "BIGINT"}) texts(target, whole);
        texts("SMALLINT", NULL, "1", " -32768 ", "32768", "1.5", "x");
        for (String target : new String[] {"FLOAT", "DOUBLE"}) {
            texts(target, NULL, "", "0", "-0", "1.5", " 1.5 ", "+1.5", "1e2", "1E-2", ".5", "5.", "NaN", "nan", "Infinity", "-Infinity", "+Infinity", "inf", "infinity", "1e400", "1e-400", "0x1p3", "1f", "1.5d", "abc", "1,5", "3.4028236e38", "1_0");
        }
        for (String target : new String[] {"DECIMAL(10, 2)", "DECIMAL(38, 18)", "DECIMAL(3, 0)"}) {
            texts(target, NULL, "", "0", "1.5", " 1.5 ", "+1.5", "-1.005", "1.005", "2.5", "3.5", "999.5", "1e2", "1E-2", ".5", "5.", "99999999.994", "99999999.995", "123456789012345678901234567890", "abc", "NaN", "1,5", "0.0000000000000000005");
        }
        texts("BOOLEAN", NULL, "", "true", "TRUE", "tRuE", " true ", "t", "T", "f", "false", "yes", "no", "y", "n", "1", "0", "on", "off", "2", "x");
        texts("DATE", NULL, "", "2024-02-29", "2024-2-9", " 2024-02-29 ", "2023-02-29", "2024-02-29 12:34:56", "2024-02-29T12:34:56", "2024", "2024-02", "24-02-29", "0001-01-01", "0000-01-01", "-0001-01-01", "9999-12-31", "10000-01-01", "2024/02/29", "20240229", "2024-13-01", "2024-00-10", "2024-02-29x", "x", "12:34:56");
        texts("TIME", NULL, "", "12:34:56", "1:2:3", "12:34", "12", "24:00:00", "12:60:00", "12:34:56.789", "12:34:56.123456789", " 12:34:56 ", "x", "2024-02-29 12:34:56");
        for (String target : new String[] {"TIMESTAMP(0)", "TIMESTAMP(3)", "TIMESTAMP(6)", "TIMESTAMP(9)"}) {
            texts(target, NULL, "", "2024-02-29 12:34:56", "2024-02-29 12:34:56.1", "2024-02-29 12:34:56.123456789", "2024-02-29 12:34:56.1234567891", "2024-02-29 12:34:56.9999999", "2024-02-29", "2024-02-29 12:34", "2024-02-29 12", "2024-2-9 1:2:3", " 2024-02-29 12:34:56 ", "2024-02-29T12:34:56",
                    "2024-02-29T12:34:56Z", "2024-02-29 12:34:56+01:00", "2023-02-29 12:34:56", "2024-02-29 24:00:00", "2024-02-29 12:34:60", "1969-12-31 23:59:59.999999999", "0001-01-01 00:00:00", "9999-12-31 23:59:59.999999999", "x", "12:34:56");
        }
        for (String target : new String[] {"TIMESTAMP_LTZ(3)", "TIMESTAMP_LTZ(6)"}) texts(target, NULL, "", "2024-02-29 12:34:56", "2024-02-29 12:34:56.123456", "2024-02-29", "2024-02-29T12:34:56Z", "2024-02-29 12:34:56+01:00", "x");
        texts("BYTES", NULL, "", "Hello", "ä😀", "4869");
        texts("STRING", NULL, "", "x😀");
        for (String sql : new String[] {"CAST(a AS VARCHAR(3))", "CAST(a AS CHAR(3))", "CAST(a AS CHAR(7))", "CAST(a AS VARCHAR)", "CAST(a AS CHAR)"}) {
            rows(sql, of("STRING"), row(NULL), row(""), row("hello"), row("x😀yz"), row("ab"), row("a   "));
            rows(sql, of("INT"), row("12345"), row("-1"));
            rows(sql, of("DATE"), row("2024-02-29"));
        }
        for (String sql : new String[] {"CAST(a AS BINARY(2))", "CAST(a AS VARBINARY(2))", "CAST(a AS BINARY(4))"}) {
            rows(sql, of("BYTES"), row(NULL), row(""), row("010203"), row("0102"));
            rows(sql, of("STRING"), row("hello"), row("a"));
        }
        for (String type : new String[] {"DOUBLE", "FLOAT"}) {
            rows("CAST(a AS STRING)", of(type), row("1.0"), row("100.0"), row("9999999.0"), row("1.0E7"), row("0.001"), row("9.99E-4"), row("123456.789"), row("1.0E16"), row("-1.5E-7"), row("3.3333333"), row("0.30000001"));
        }
        rows("CAST(a AS STRING)", of("DOUBLE"), row("0.30000000000000004"), row("3.3333333333333335"), row("1.0E-5"), row("1.2345678901234567E19"), row("9007199254740993"));
        rows("CAST(a AS STRING)", of("DECIMAL(20, 0)"), row("12345678901234567890"), row("-5"));
        rows("CAST(a AS STRING)", of("DECIMAL(10, 8)"), row("0.00000001"), row("1.5"));
        rows("CAST(a AS STRING)", of("DECIMAL(38, 38)"), row("0.00000000000000000000000000000000000001"), row("-0.5"));
        rows("CAST(a AS STRING)", of("TIMESTAMP(1)"), row("2024-02-29 12:34:56.5"), row("2024-02-29 12:34:56"));
        rows("CAST(a AS STRING)", of("TIMESTAMP(4)"), row("2024-02-29 12:34:56.1234"));
        rows("CAST(a AS INT)", of("DOUBLE"), row("2147483647.5"), row("2147483648"), row("-2147483649"), row("1.9999"), row("-1.9999"));
        rows("CAST(a AS DECIMAL(10, 2))", of("DOUBLE"), row("1.005"), row("1.015"), row("2.675"), row("0.125"), row("-0.125"), row("99999999.994"), row("99999999.995"));
        rows("CAST(a AS DECIMAL(5, 1))", of("DECIMAL(10, 2)"), row("1.25"), row("1.35"), row("-1.25"), row("9999.94"), row("9999.95"));
        rows("CAST(a AS INT)", of("DECIMAL(10, 2)"), row("1.50"), row("1.99"), row("-1.99"), row("99999999.99"));
        rows("CAST(a AS DECIMAL(38, 18))", of("DOUBLE"), row("0.1"), row("123456789.123456789"), row("1.0E20"));
        rows("CAST(a AS DECIMAL(38, 18))", of("FLOAT"), row("0.1"), row("16777216"));
        plain("CAST('x' AS INT)", "TRY_CAST('x' AS INT)", "CAST(1.5 AS INT)", "CAST(-1.5 AS INT)", "CAST(300 AS TINYINT)", "CAST(1e10 AS INT)", "CAST(NULL AS INT)", "CAST('12.345' AS DECIMAL(10, 2))", "CAST(DATE '2024-02-29' AS TIMESTAMP)", "CAST('2024-02-29 01:02:03' AS TIMESTAMP)",
                "CAST(TIMESTAMP '2024-02-29 01:02:03' AS DATE)", "CAST(1 AS BOOLEAN)", "CAST(0 AS BOOLEAN)", "CAST(TRUE AS INT)", "CAST(TRUE AS STRING)", "CAST(1.10 AS STRING)", "CAST(1e0 AS STRING)", "CAST(TIME '01:02:03' AS STRING)", "CAST(x'48' AS STRING)");
    }

    /** A text into a type, with and without a way out. */
    private void texts(String target, String... values) {
        for (String value : values) {
            rows("CAST(a AS " + target + ")", of("STRING"), row(value));
            rows("TRY_CAST(a AS " + target + ")", of("STRING"), row(value));
        }
    }

    private void numbers() {
        String[] numbers = {"TINYINT", "SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL(10, 2)", "DECIMAL(38, 18)", "DECIMAL(38, 0)", "DECIMAL(5, 5)"};
        for (String type : numbers) {
            for (String sql : new String[] {"ABS(a)", "FLOOR(a)", "CEIL(a)", "ROUND(a)", "SIGN(a)"}) each(sql, type);
        }
        for (String sql : new String[] {"CEILING(a)", "TRUNCATE(a)", "SIGNUM(a)"}) rows(sql, of("DOUBLE"), few("DOUBLE", 8));
        for (String type : new String[] {"INT", "BIGINT", "DOUBLE", "FLOAT", "DECIMAL(10, 2)", "DECIMAL(38, 18)"}) {
            for (String sql : new String[] {"ROUND(a, 1)", "ROUND(a, 0)", "ROUND(a, -1)", "TRUNCATE(a, 1)", "TRUNCATE(a, -1)"}) rows(sql, of(type), few(type, 20));
        }
        String[][] places = {row("1234.5678", "2"), row("1234.5678", "-2"), row("-1234.5678", "2"), row("1234.5678", "0"), row("1.005", "2"), row("2.5", "0"), row("-2.5", "0"), row("1234.5678", "20"), row("1234.5678", "-20"), row(NULL, "1"), row("1.5", NULL)};
        for (String sql : new String[] {"ROUND(a, b)", "TRUNCATE(a, b)"}) {
            rows(sql, of("DOUBLE", "INT"), places);
            rows(sql, of("DECIMAL(10, 4)", "INT"), places);
            rows(sql, of("INT", "INT"), row("1234", "-2"), row("1250", "-2"), row("-1250", "-2"), row("1234", "2"), row("2147483647", "-1"));
            rows(sql, of("BIGINT", "INT"), row("9223372036854775807", "-1"), row("-1250", "-2"));
        }
        rows("ROUND(a, 2)", of("DECIMAL(10, 4)"), row("1.2345"), row("1.2350"), row("-1.2350"), row("999999.9999"));
        rows("ROUND(a, -2)", of("DECIMAL(10, 2)"), row("1250.00"), row("99999999.99"));
        rows("ROUND(a, 30)", of("DECIMAL(10, 2)"), row("1.25"));
        for (String sql : new String[] {"SIN(a)", "COS(a)", "TAN(a)", "COT(a)", "ASIN(a)", "ACOS(a)", "ATAN(a)", "SINH(a)", "COSH(a)", "TANH(a)", "EXP(a)", "LN(a)", "LOG10(a)", "LOG2(a)", "LOG(a)", "SQRT(a)", "DEGREES(a)", "RADIANS(a)"}) {
            rows(sql, of("DOUBLE"), row(NULL), row("0.0"), row("-0.0"), row("1.0"), row("-1.0"), row("0.5"), row("2.0"), row(PI), row("1.0E300"), row("NaN"), row("Infinity"), row("-Infinity"));
            rows(sql, of("INT"), row("1"), row("0"), row("-2"));
            rows(sql, of("DECIMAL(10, 2)"), row("0.50"), row("1.00"));
        }
        for (String sql : new String[] {"POWER(a, b)", "POW(a, b)", "ATAN2(a, b)", "LOG(a, b)"}) {
            rows(sql, of("DOUBLE", "DOUBLE"), row("2.0", "10.0"), row("2.0", "0.5"), row("-8.0", "0.3333333333333333"), row("0.0", "0.0"), row("0.0", "-1.0"), row("-0.0", "1.0"), row("NaN", "0.0"), row("1.0", "Infinity"), row(NULL, "1.0"), row("1.0", NULL), row("-1.0", "-1.0"));
            rows(sql, of("INT", "INT"), row("2", "10"), row("0", "0"), row("-2", "3"));
            rows(sql, of("DECIMAL(10, 2)", "DECIMAL(10, 2)"), row("2.00", "0.50"));
        }
        for (String type : new String[] {"BIGINT"}) for (String sql : new String[] {"BIN(a)", "HEX(a)"}) rows(sql, of(type), row("10"), row("-1"));
    }

    private void texts() {
        for (String sql : new String[] {"UPPER(a)", "LOWER(a)", "INITCAP(a)", "CHAR_LENGTH(a)", "CHARACTER_LENGTH(a)", "TRIM(a)", "BTRIM(a)", "LTRIM(a)", "RTRIM(a)", "REVERSE(a)", "ASCII(a)", "TRIM(LEADING FROM a)", "TRIM(TRAILING ' ' FROM a)",
            "TRIM(BOTH 'a' FROM a)", "a || '!'", "a || a", "CONCAT(a, 'x')", "CONCAT(a)", "CONCAT_WS('-', a, 'x', NULL)", "CONCAT_WS(a, 'x', 'y')", "REPEAT(a, 2)", "REPEAT(a, 0)", "REPEAT(a, -1)", "SUBSTRING(a, 2)", "SUBSTRING(a FROM 2 FOR 2)", "SUBSTR(a, 2)", "LEFT(a, 2)", "RIGHT(a, 2)",
            "LPAD(a, 4, '*')", "RPAD(a, 4, '*')", "REPLACE(a, 'l', 'LL')", "REPLACE(a, '', 'x')", "POSITION('l' IN a)", "POSITION('' IN a)", "LOCATE('l', a)", "INSTR(a, 'l')", "TRANSLATE(a, 'lo', 'x')", "STARTSWITH(a, 'he')", "ENDSWITH(a, 'lo')", "STARTSWITH(a, '')", "MD5(a)", "SPLIT_INDEX(a, ' ', 0)"}) each(sql, "STRING");
        String[] five = {"-100", "-9", "-5", "-3", "-1", "0", "1", "2", "3", "5", "6", "2147483647", "-2147483648", NULL};
        for (String n : five) {
            for (String sql : new String[] {"SUBSTRING(a, b)", "SUBSTR(a, b)", "LEFT(a, b)", "RIGHT(a, b)"}) {
                rows(sql, of("STRING", "INT"), row("hello", n), row("x😀yz", n));
                if (n == null || n.equals("1")) rows(sql, of("STRING", "INT"), row("", n), row(NULL, n));
            }
        }
        for (String n : new String[] {"-3", "-1", "0", "1", "4", "7"}) {
            rows("REPEAT(a, b)", of("STRING", "INT"), row("ab", n));
            for (String sql : new String[] {"LPAD(a, b, c)", "RPAD(a, b, c)"}) rows(sql, of("STRING", "INT", "STRING"), row("hello", n, "xy"), row("x😀", n, "ä😀"), row("hi", n, ""), row("", n, "-"));
        }
        for (String sql : new String[] {"LPAD(a, b, c)", "RPAD(a, b, c)"}) rows(sql, of("STRING", "INT", "STRING"), row(NULL, "3", "x"), row("a", NULL, "x"), row("a", "3", NULL));
        for (String sql : new String[] {"LPAD(a, 7)", "RPAD(a, 7)"}) rows(sql, of("STRING"), row("hi"));
        String[][] cuts = {row("hello", "1", "2"), row("hello", "0", "2"), row("hello", "-3", "2"), row("hello", "-9", "5"), row("hello", "2", "-1"), row("hello", "2", "0"), row("hello", "9", "1"), row("hello", "4", "9"), row("hello", "-2147483648", "2147483647"), row("hello", "2147483647", "1"),
            row("x😀yz", "2", "1"), row("x😀yz", "-3", "2"), row(NULL, "1", "1"), row("hello", NULL, "1"), row("hello", "1", NULL), row("", "1", "1"), row("hello", "2", "2147483647")};
        for (String sql : new String[] {"SUBSTRING(a, b, c)", "SUBSTR(a, b, c)", "SUBSTRING(a FROM b FOR c)"}) rows(sql, of("STRING", "INT", "INT"), cuts);
        String[][] found = {row("na", "banana"), row("nan", "banana"), row("x", "banana"), row("", "banana"), row("na", ""), row("", ""), row("😀", "x😀y"), row("y", "x😀y"), row(NULL, "a"), row("a", NULL)};
        for (String sql : new String[] {"LOCATE(a, b)", "POSITION(a IN b)", "INSTR(b, a)", "STRPOS(b, a)", "ENDSWITH(b, a)", "STARTSWITH(b, a)", "ENDS_WITH(b, a)"}) rows(sql, of("STRING", "STRING"), found);
        for (String n : new String[] {"-1", "0", "1", "2", "4", "6", "7", "100", NULL}) rows("LOCATE(a, b, c)", of("STRING", "STRING", "INT"), row("na", "banana", n), row("", "abc", n));
        rows("INSTR(a, b, c)", of("STRING", "STRING", "INT"), row("banana", "na", "4"), row("banana", "na", "-1"));
        rows("POSITION(a IN b FROM c)", of("STRING", "STRING", "INT"), row("na", "banana", "4"));
        String[][] splits = {row("a,b,c", ",", "0"), row("a,b,c", ",", "1"), row("a,b,c", ",", "2"), row("a,b,c", ",", "3"), row("a,b,c", ",", "-1"), row("a,,c", ",", "1"), row("a,,c", ",", "2"), row(",a", ",", "0"), row("a,", ",", "1"), row("", ",", "0"), row("abc", "", "0"), row("abc", "b", "1"), row("a::b", "::", "1"),
            row("a::b", ":", "1"), row("x😀y", "😀", "1"), row(NULL, ",", "0"), row("a", NULL, "0"), row("a", ",", NULL), row("a", ",", "0"), row(",,", ",", "1")};
        rows("SPLIT_INDEX(a, b, c)", of("STRING", "STRING", "INT"), splits);
        rows("SPLIT_INDEX(a, 44, 1)", of("STRING"), row("a,b"));
        rows("REPLACE(a, b, c)", of("STRING", "STRING", "STRING"), row("hello", "l", ""), row("hello", "", "x"), row("hello", "ll", "LL"), row("aaa", "aa", "b"), row("x😀y", "😀", "-"), row("$1", "$", "\\"), row(NULL, "a", "b"), row("a", NULL, "b"), row("a", "a", NULL), row("", "", "x"));
        rows("TRANSLATE(a, b, c)", of("STRING", "STRING", "STRING"), row("hello", "el", "ip"), row("hello", "elo", "x"), row("hello", "", "x"), row("hello", "l", ""), row("hello", "ll", "xy"), row("x😀y", "😀", "ä"), row("xäy", "ä", "😀"), row(NULL, "a", "b"), row("a", NULL, "b"), row("a", "a", NULL));
        for (String sql : new String[] {"BTRIM(a, b)", "LTRIM(a, b)", "RTRIM(a, b)"}) rows(sql, of("STRING", "STRING"), row("xxhixx", "x"), row("xyhiyx", "xy"), row("hi", ""), row("  hi ", " "), row(NULL, "x"), row("a", NULL), row("😀hi😀", "😀"));
        for (String sql : new String[] {"TRIM(LEADING b FROM a)", "TRIM(TRAILING b FROM a)", "TRIM(BOTH b FROM a)"}) rows(sql, of("STRING", "STRING"), row("xxhixx", "x"), row("xyhiyx", "xy"), row("hi", ""), row("  hi ", " "), row(NULL, "x"), row("a", NULL));
        for (String sql : new String[] {"TRIM(a)", "LTRIM(a)", "RTRIM(a)", "BTRIM(a)"}) rows(sql, of("STRING"), row("\t x \n"), row("\u00a0x\u00a0"), row("   "));
        for (String sql : new String[] {"UPPER(a)", "LOWER(a)", "INITCAP(a)"}) rows(sql, of("STRING"), row("İstanbul ıi"), row("ὈΔΥΣΣΕΎΣ ς σ"), row("ﬁne"), row("o'neil mc-donald x2y"), row("hello_world foo.bar"), row("ǆ ŉ"));
        rows("CHR(a)", of("INT"), row("65"), row("0"), row("97"), row("255"), row("256"), row("321"), row("-1"), row("128"), row("228"), row("8364"), row("128512"), row(NULL));
        rows("CHR(a)", of("BIGINT"), row("65"), row("4294967361"));
        rows("ASCII(a)", of("STRING"), row("A"), row("ä"), row("😀"), row("€"));
        rows("CONCAT(a, b)", of("STRING", "STRING"), row("a", "b"), row("a", NULL), row(NULL, "b"), row("", ""));
        rows("a || b", of("STRING", "STRING"), row("a", "b"), row("a", NULL), row(NULL, "b"));
        rows("CONCAT(a, b)", of("STRING", "INT"), row("a", "1"));
        rows("a || b", of("STRING", "INT"), row("a", "1"));
        rows("CONCAT_WS(a, b, c)", of("STRING", "STRING", "STRING"), row("-", "a", "b"), row("-", NULL, "b"), row("-", NULL, NULL), row(NULL, "a", "b"), row("-", "", "b"), row("", "a", "b"));
        for (String sql : new String[] {"UPPER(a)", "CHAR_LENGTH(a)", "REVERSE(a)", "TRIM(a)", "LEFT(a, 2)", "ASCII(a)", "CONCAT(a, 'x')"}) rows(sql, of("INT"), row("123"));
        for (String sql : new String[] {"UPPER(a)", "CHAR_LENGTH(a)", "SUBSTRING(a, 2)"}) rows(sql, of("BYTES"), row("616263"));
        rows("LEFT(a, b)", of("STRING", "BIGINT"), row("hello", "2"));
        rows("SUBSTRING(a, b)", of("STRING", "BIGINT"), row("hello", "2"));
        rows("SUBSTRING(a, b)", of("STRING", "DOUBLE"), row("hello", "2.5"));
        rows("REPEAT(a, b)", of("STRING", "BIGINT"), row("ab", "2"));
        rows("OVERLAY(a PLACING b FROM 2 FOR 1)", of("STRING", "STRING"), row("hello", "XX"));
    }

    private void patterns() {
        String[][] likes = {row("hello", "hello"), row("hello", "h%"), row("hello", "%l%"), row("hello", "h_llo"), row("hello", "_"), row("hello", "HELLO"), row("hello", ""), row("", ""), row("", "%"), row("a%c", "a\\%c"), row("abc", "a\\%c"), row("a_c", "a\\_c"), row("a\\c", "a\\c"), row("a\\c", "a\\\\c"), row("a\nb", "a%b"), row("a\nb", "a_b"),
            row("x😀y", "x_y"), row("x😀y", "x__y"), row("x😀y", "x%y"), row("a.c", "a.c"), row("abc", "a.c"), row("a[b", "a[b"), row("hello", "hel%lo"), row("hello", "%%"), row(NULL, "%"), row("a", NULL), row("a*", "a*"), row("ab", "a*"), row("^a$", "^a$"), row("abc", "abc\\")};
        for (String[] pair : likes) {
            String pattern = pair[1] == null ? "CAST(NULL AS STRING)" : "'" + pair[1] + "'";
            rows("a LIKE " + pattern, of("STRING"), row(pair[0]));
        }
        for (String[] pair : new String[][] {row("hello", "h%"), row("hello", "x%"), row(NULL, "%")}) rows("a NOT LIKE '" + pair[1] + "'", of("STRING"), row(pair[0]));
        for (String value : new String[] {"a%c", "abc", "a!c", "a_c", "aéc"}) {
            rows("a LIKE 'a!%c' ESCAPE '!'", of("STRING"), row(value));
            rows("a LIKE 'a!_c' ESCAPE '!'", of("STRING"), row(value));
            rows("a LIKE 'a!!c' ESCAPE '!'", of("STRING"), row(value));
            rows("a LIKE 'a\\_c'", of("STRING"), row(value));
            rows("a LIKE 'a\\_c' ESCAPE '\\'", of("STRING"), row(value));
        }
        for (String value : new String[] {"abc", "xabcx", "a%c", "ab", "100%", "", "a\nc", "a.c", "aaa", "ABC", "a-c", "a|c", "x😀y", "b", NULL}) {
            for (String pattern : new String[] {"abc", "a%", "a_c", "(ab|100)%", "10[0-9]+", "a+", "a*", "a{2,3}", "[a-c]+", "[^a]%", "a.c", "%b%", "abc|ab", "[[:ALPHA:]]+", "x_y", "a?b?c?", ""}) rows("a SIMILAR TO '" + pattern + "'", of("STRING"), row(value));
            rows("a NOT SIMILAR TO 'abc'", of("STRING"), row(value));
        }
        for (String sql : new String[] {"a SIMILAR TO 'a!%c' ESCAPE '!'", "a SIMILAR TO 'a\\%c' ESCAPE '\\'", "a SIMILAR TO 'a\\%c'"}) rows(sql, of("STRING"), row("a%c"), row("abc"), row("a\\c"));
        rows("a SIMILAR TO '(a'", of("STRING"), row("a"));
        rows("SIMILAR(a, 'b')", of("STRING"), row("abc"));
        for (String value : new String[] {"ab12cd", "2024-01", "", "aaa", "x😀y", "a.b", "A", NULL}) {
            for (String sql : new String[] {"REGEXP(a, '[0-9]+')", "REGEXP(a, '^a')", "REGEXP(a, 'a.b')", "REGEXP(a, '')", "REGEXP(a, '(?i)a')", "REGEXP(a, '\\d{2}')", "REGEXP(a, '^.{3}$')",
                "REGEXP_EXTRACT(a, '([a-z]+)([0-9]+)', 2)", "REGEXP_EXTRACT(a, '([a-z]+)([0-9]+)', 1)", "REGEXP_EXTRACT(a, '([a-z]+)([0-9]+)', 0)", "REGEXP_EXTRACT(a, '([a-z]+)([0-9]+)')", "REGEXP_EXTRACT(a, '([a-z]+)([0-9]+)', 3)", "REGEXP_EXTRACT(a, '([a-z]+)([0-9]+)', -1)", "REGEXP_EXTRACT(a, '(z)?a', 1)", "REGEXP_EXTRACT(a, '.', 0)",
                "REGEXP_REPLACE(a, '([0-9]+)', '<$1>')", "REGEXP_REPLACE(a, '([0-9]+)', '$1_x')", "REGEXP_REPLACE(a, '[0-9]+', '$5')", "REGEXP_REPLACE(a, '[0-9]+', 'US$')", "REGEXP_REPLACE(a, '[0-9]+', '\\\\')", "REGEXP_REPLACE(a, 'a', '')", "REGEXP_REPLACE(a, '', '-')", "REGEXP_REPLACE(a, 'x*', '-')", "REGEXP_REPLACE(a, '^a', 'b')", "REGEXP_REPLACE(a, '(\\d+)-(\\d+)', '$2/$1')",
                "REGEXP_REPLACE(a, '(?=1)', '_')", "REGEXP_EXTRACT(a, '(a)\\1', 0)", "REGEXP(a, 'a(?!z)')"}) rows(sql, of("STRING"), row(value));
        }
        for (String sql : new String[] {"REGEXP(a, '(')", "REGEXP_EXTRACT(a, '(')", "REGEXP_REPLACE(a, '(', 'x')", "REGEXP(a, NULL)", "REGEXP_EXTRACT(a, NULL, 0)", "REGEXP_REPLACE(a, 'a', NULL)", "REGEXP_REPLACE(a, NULL, 'x')", "REGEXP_EXTRACT(a, 'a', NULL)"}) rows(sql, of("STRING"), row("abc"), row(NULL));
        for (String pattern : new String[] {"\\w+", "\\s", "\\bb", "[äö]", "\\p{L}+", "[[:alpha:]]+", "a++", "\\Aa", "a\\z", "b$", "\\h", "[a&&b]", "\\u00e4", "\\x61", "(?<n>a)", "\\Qa.b\\E"}) rows("REGEXP_REPLACE(a, '" + pattern + "', '#')", of("STRING"), row("ä b a.b"), row("abab\n"), row("[:]"));
    }

    private void times() {
        String[] units = {"YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "DOY", "DOW", "HOUR", "MINUTE", "SECOND", "MILLISECOND", "EPOCH", "MICROSECOND", "NANOSECOND", "ISODOW", "ISOYEAR", "DECADE", "CENTURY", "MILLENNIUM"};
        for (String unit : units) {
            for (String type : new String[] {"DATE", "TIMESTAMP(3)"}) each("EXTRACT(" + unit + " FROM a)", type);
            for (String type : new String[] {"TIME(3)", "TIMESTAMP_LTZ(3)"}) rows("EXTRACT(" + unit + " FROM a)", of(type), few(type, 4));
            rows("EXTRACT(" + unit + " FROM a)", of("TIMESTAMP(6)"), few("TIMESTAMP(6)", 3));
        }
        for (String sql : new String[] {"YEAR(a)", "QUARTER(a)", "MONTH(a)", "WEEK(a)", "DAYOFYEAR(a)", "DAYOFMONTH(a)", "DAYOFWEEK(a)", "HOUR(a)", "MINUTE(a)", "SECOND(a)", "DAY(a)", "DOW(a)", "DOY(a)", "EPOCH(a)", "MILLISECOND(a)"}) {
            for (String type : new String[] {"DATE", "TIMESTAMP(3)", "TIMESTAMP_LTZ(3)", "TIME(3)"}) rows(sql, of(type), few(type, 5));
            rows(sql, of("STRING"), row("2024-02-29 12:34:56"));
        }
        for (String unit : new String[] {"YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND", "MILLISECOND", "DECADE", "CENTURY", "MILLENNIUM"}) {
            for (String function : new String[] {"FLOOR", "CEIL"}) {
                String sql = function + "(a TO " + unit + ")";
                each(sql, "TIMESTAMP(3)");
                rows(sql, of("DATE"), few("DATE", 9));
                for (String type : new String[] {"TIMESTAMP_LTZ(3)", "TIMESTAMP(6)", "TIMESTAMP(9)", "TIME(3)"}) rows(sql, of(type), few(type, 4));
            }
        }
        for (String pattern : new String[] {"yyyy-MM-dd HH:mm:ss", "yyyy-MM-dd HH:mm:ss.SSS", "HH:mm:ss.SSSSSS", "yyyyMMdd", "yy/M/d H:m:s", "EEE, d MMM yyyy", "EEEE MMMM", "h:mm a", "D", "SSSSSSSSS", "''yyyy''", "uuuu", "y", "K k", "DDD", "w", "e", "Q", "yyyy-MM-dd''T''HH:mm:ss", "MMMMM", "G", "S", "SS", "n", "A", "VV", "Z", "XXX", "YYYY", "L LL", "x", "B"}) {
            rows("DATE_FORMAT(a, '" + pattern + "')", of("TIMESTAMP(3)"), few("TIMESTAMP(3)", 6));
            for (String type : new String[] {"TIMESTAMP(9)", "TIMESTAMP_LTZ(3)"}) rows("DATE_FORMAT(a, '" + pattern + "')", of(type), few(type, 3));
        }
        rows("DATE_FORMAT(a, b)", of("TIMESTAMP(3)", "STRING"), row("2024-02-29 12:34:56", "yyyy"), row("2024-02-29 12:34:56", NULL), row("2024-02-29 12:34:56", "bogus"), row("2024-02-29 12:34:56", ""));
        rows("DATE_FORMAT(a, 'yyyy-MM-dd HH:mm:ss.SSS')", of("DATE"), row("2024-02-29"));
        for (String value : new String[] {"2024-02-29 12:34:56", "2024-02-29 12:34:56.789", "2024-02-29", "x", "2024-2-9 1:2:3", "2024-02-29T12:34:56", NULL, ""}) {
            rows("DATE_FORMAT(a, 'HH:mm')", of("STRING"), row(value));
            rows("TO_DATE(a)", of("STRING"), row(value));
            rows("TO_TIMESTAMP(a)", of("STRING"), row(value));
            rows("UNIX_TIMESTAMP(a)", of("STRING"), row(value));
            rows("TO_TIMESTAMP(a, 'yyyy-MM-dd')", of("STRING"), row(value));
            rows("UNIX_TIMESTAMP(a, 'yyyy-MM-dd')", of("STRING"), row(value));
            rows("TO_DATE(a, 'yyyy-MM-dd HH:mm:ss')", of("STRING"), row(value));
        }
        for (String value : new String[] {"2024-02-29 12:34:56.1", "2024-02-29 12:34:56.123456789", "2024-02-29 12:34:56.1234567891", "2024-02-29 12:34", "2024-02-29 12", "2023-02-29 12:34:56", "2024-02-30", "2024-02-31 01:02:03", "2024-04-31", "2024-13-01 00:00:00", "2024-02-29 24:00:00", "2024-02-29 12:60:00", " 2024-02-29 12:34:56", "2024-02-29 12:34:56 ", "2024-02-29 12:34:56x", "1969-12-31 23:59:59", "0001-01-01 00:00:00",
            "9999-12-31 23:59:59", "10000-01-01 00:00:00", "2024/02/29 12:34:56", "2024-02-29 12:34:56Z", "20240229", "-1-01-01 00:00:00", "24-02-29 00:00:00"}) {
            for (String sql : new String[] {"TO_TIMESTAMP(a)", "TO_DATE(a)", "UNIX_TIMESTAMP(a)", "DATE_FORMAT(a, 'yyyy-MM-dd HH:mm:ss.SSS')"}) rows(sql, of("STRING"), row(value));
        }
        String[][] read = {row("15/7/2015", "d/M/yyyy"), row("15/07/2015", "d/M/yyyy"), row("5/7/15", "d/M/yy"), row("5/7/85", "d/M/yy"), row("2015-07-15 01:02:03 PM", "yyyy-MM-dd hh:mm:ss a"), row("2015-07-15 13:02:03", "yyyy-MM-dd hh:mm:ss"), row("Wed, 15 Jul 2015", "EEE, d MMM yyyy"), row("Thu, 15 Jul 2015", "EEE, d MMM yyyy"),
            row("20150715130203", "yyyyMMddHHmmss"), row("20150715130203123", "yyyyMMddHHmmssSSS"), row("2015-07-15T13:02:03", "yyyy-MM-dd'T'HH:mm:ss"), row("2015-07-15 13:02:03.5", "yyyy-MM-dd HH:mm:ss.S"), row("2015-07-15 13:02:03.123456", "yyyy-MM-dd HH:mm:ss.SSSSSS"), row("2015-07-15 13:02:03.12", "yyyy-MM-dd HH:mm:ss.SSS"), row("2015-07-15 extra", "yyyy-MM-dd"),
            row("2015-07", "yyyy-MM"), row("2015", "yyyy"), row("13:02", "HH:mm"), row("2015-7-5", "yyyy-MM-dd"), row("2015-07-05", "yyyy-M-d"), row("2015-196", "yyyy-DDD"), row("July 15, 2015", "MMMM d, yyyy"), row("jul 15, 2015", "MMM d, yyyy"), row("2015-07-15", "yyyy/MM/dd"), row("2015-07-15", ""), row("2015-07-15", NULL), row(NULL, "yyyy-MM-dd"), row("", "yyyy-MM-dd"),
            row("2015-02-30", "yyyy-MM-dd"), row("2015-13-01", "yyyy-MM-dd"), row("-2015-07-15", "yyyy-MM-dd"), row("12015-07-15", "yyyy-MM-dd"), row("2015-07-15", "bogus"), row("1436965629", "X"), row("2015-07-15 24:00:00", "yyyy-MM-dd HH:mm:ss"), row("2015-07-15 24:00:00", "yyyy-MM-dd kk:mm:ss"), row("15", "yy"), row("  2015-07-15", "yyyy-MM-dd"), row("2015-07-15", "uuuu-MM-dd"), row("2015-07-15 +0200", "yyyy-MM-dd Z")};
        for (String[] pair : read) {
            String pattern = pair[1] == null ? "CAST(NULL AS STRING)" : "'" + pair[1].replace("'", "''") + "'";
            for (String function : new String[] {"TO_TIMESTAMP", "TO_DATE", "UNIX_TIMESTAMP"}) rows(function + "(a, " + pattern + ")", of("STRING"), row(pair[0]));
        }
        rows("TO_TIMESTAMP(a, b)", of("STRING", "STRING"), row("15/7/2015", "d/M/yyyy"), row("2015-07-15", "yyyy-MM-dd"), row("x", NULL));
        rows("TO_DATE(a, b)", of("STRING", "STRING"), row("15/7/2015", "d/M/yyyy"), row("2015-07-15", "yyyy-MM-dd"), row("x", NULL));
        for (String n : new String[] {"0", "1", "-1", "1436965629", "1436965629234", "-62135596800", "253402300799", "9223372036854775807", NULL}) {
            rows("TO_TIMESTAMP_LTZ(a, 0)", of("BIGINT"), row(n));
            rows("TO_TIMESTAMP_LTZ(a, 3)", of("BIGINT"), row(n));
            rows("TO_TIMESTAMP_LTZ(a)", of("BIGINT"), row(n));
            rows("FROM_UNIXTIME(a)", of("BIGINT"), row(n));
            rows("FROM_UNIXTIME(a, 'yyyy/MM/dd')", of("BIGINT"), row(n));
        }
        rows("TO_TIMESTAMP_LTZ(a, b)", of("BIGINT", "INT"), row("1436965629", "0"), row("1436965629234", "3"), row("1", "6"), row("1", NULL));
        for (String sql : new String[] {"TO_TIMESTAMP_LTZ(a, 6)", "TO_TIMESTAMP_LTZ(a, 9)", "TO_TIMESTAMP_LTZ(a, 1)"}) rows(sql, of("BIGINT"), row("1436965629"));
        for (String type : new String[] {"INT", "DOUBLE", "DECIMAL(10, 2)", "FLOAT"}) {
            for (String sql : new String[] {"TO_TIMESTAMP_LTZ(a, 3)", "TO_TIMESTAMP_LTZ(a, 0)", "FROM_UNIXTIME(a)"}) rows(sql, of(type), row("1500"));
        }
        rows("TO_TIMESTAMP_LTZ(a)", of("STRING"), row("2024-02-29 12:34:56"), row("x"));
        rows("TO_TIMESTAMP_LTZ(a, 'yyyy')", of("STRING"), row("2024"));
        rows("FROM_UNIXTIME(a, b)", of("BIGINT", "STRING"), row("0", "yyyy"), row("0", NULL));
        for (String sql : new String[] {"UNIX_TIMESTAMP(a)", "TO_TIMESTAMP(a)", "TO_DATE(a)"}) for (String type : new String[] {"TIMESTAMP(3)", "DATE", "BIGINT"}) rows(sql, of(type), few(type, 2));
        rows("UNIX_TIMESTAMP(CAST(a AS STRING))", of("TIMESTAMP(3)"), row("2024-01-02 03:04:05.678"), row("1969-12-31 23:59:59.999"));
        for (String interval : new String[] {"INTERVAL '1' SECOND", "INTERVAL '1.5' SECOND", "INTERVAL '90' MINUTE", "INTERVAL '1' HOUR", "INTERVAL '30' DAY", "INTERVAL '1' MONTH", "INTERVAL '13' MONTH", "INTERVAL '1' YEAR", "INTERVAL '-1' MONTH", "INTERVAL '1-2' YEAR TO MONTH", "INTERVAL '1 02:03:04' DAY TO SECOND", "INTERVAL '0.001' SECOND", "INTERVAL '1' WEEK"}) {
            for (String op : new String[] {"+", "-"}) {
                rows("a " + op + " " + interval, of("TIMESTAMP(3)"), row("2024-01-31 12:34:56.789"), row("2024-02-29 00:00:00"), row("1969-12-31 23:59:59.999"), row(NULL));
                rows("a " + op + " " + interval, of("DATE"), row("2024-01-31"), row("2024-02-29"), row("1970-01-01"));
                rows("a " + op + " " + interval, of("TIMESTAMP_LTZ(3)"), row("2024-03-31 12:34:56.789"));
                rows("a " + op + " " + interval, of("TIMESTAMP(6)"), row("2024-03-31 12:34:56.123456"));
                rows("a " + op + " " + interval, of("TIME(3)"), row("23:59:59.5"), row("00:00:00"));
            }
        }
        rows("INTERVAL '1' DAY + a", of("TIMESTAMP(3)"), row("2024-02-29 00:00:00"));
        rows("a - b", of("TIMESTAMP(3)", "TIMESTAMP(3)"), row("2024-02-29 00:00:00", "2024-02-28 00:00:00"));
        rows("TIMESTAMPDIFF(DAY, a, b)", of("TIMESTAMP(3)", "TIMESTAMP(3)"), row("2024-02-29 00:00:00", "2024-02-28 00:00:01"));
        rows("TIMESTAMPADD(MONTH, 1, a)", of("TIMESTAMP(3)"), row("2024-01-31 00:00:00"));
    }

    Map<String, List<String>> edges() {
        return edges;
    }

    private void edge(String type, String... values) {
        edges.put(type, Arrays.asList(values));
    }

    /** The expression of every edge value of the type. */
    private void each(String sql, String type) {
        for (String value : edges.get(type)) rows(sql, of(type), row(value));
    }

    private void rows(String sql, List<String> types, String[]... rows) {
        for (String[] row : rows) {
            Answers.Asked one = new Answers.Asked(sql, types, Arrays.asList(row));
            asked.putIfAbsent(one.key(), one);
        }
    }

    private void plain(String... sqls) {
        for (String sql : sqls) rows(sql, List.of(), row());
    }

    private String[][] few(String type, int most) {
        return edges.get(type).stream().limit(most).map(Expressions::row).toArray(String[][]::new);
    }

    /** Some pairs of edge values: the n-th of one type beside others of the other. */
    private String[][] zip(String left, String right) {
        List<String> lefts = edges.get(left), rights = edges.get(right);
        int rows = left.equals(right) ? Math.max(lefts.size(), rights.size()) : 4;
        String[][] pairs = new String[rows][];
        for (int i = 0; i < rows; i++) {
            boolean same = left.equals(right);
            int l = same ? i % lefts.size() : lefts.size() - 1 - i % (lefts.size() - 1), r = (i * 3 + (same ? 2 : 1)) % rights.size();
            String value = rights.get(r);
            pairs[i] = row(lefts.get(l), value);
        }
        return pairs;
    }

    private static boolean number(String type) {
        return type.endsWith("INT") || type.equals("FLOAT") || type.equals("DOUBLE") || type.startsWith("DECIMAL");
    }

    private static List<String> of(String... types) {
        return List.of(types);
    }

    private static String[] row(String... values) {
        return values;
    }
}
