import java.io.ByteArrayInputStream;
import java.io.PrintWriter;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.format.DateTimeFormatter;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TimeZone;
import java.util.TreeMap;
import org.apache.flink.formats.common.TimestampFormat;
import org.apache.flink.formats.csv.CsvRowDataSerializationSchema;
import org.apache.flink.formats.csv.CsvRowSchemaConverter;
import org.apache.flink.formats.csv.CsvToRowDataConverters;
import org.apache.flink.formats.json.JsonFormatOptions;
import org.apache.flink.formats.json.JsonParserRowDataDeserializationSchema;
import org.apache.flink.formats.json.JsonRowDataSerializationSchema;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.MappingIterator;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ArrayNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ObjectNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.dataformat.csv.CsvMapper;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.dataformat.csv.CsvSchema;
import org.apache.flink.table.data.DecimalData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.runtime.typeutils.InternalTypeInfo;
import org.apache.flink.table.types.logical.LocalZonedTimestampType;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.table.types.logical.TimestampType;
import org.apache.flink.table.types.logical.utils.LogicalTypeParser;

/**
 * Asks Flink what it makes of files in CSV and JSON, and what it writes: its format classes, called as its filesystem connector calls them,
 * without a cluster. With the jars of Flink 2.3 (flink-csv, flink-json, flink-table-common, flink-table-runtime, flink-core, the shaded Jackson) in
 * the class path:
 *
 * <pre>java -cp 'lib/*' Formats.java formats.jsonl</pre>
 *
 * A line of the result is a case. "read": the bytes of a file, and the rows that a table of these columns has, or {"fails": true}. "write":
 * a line of JSON, and the file that comes of inserting its row.
 */
public final class Formats {
    private record Case(String format, Map<String, String> options, List<String> columns, String text) {}

    private static final ObjectMapper MAPPER = new ObjectMapper();

    public static void main(String[] args) throws Exception {
        TimeZone.setDefault(TimeZone.getTimeZone("UTC"));
        try (PrintWriter out = new PrintWriter(args[0], StandardCharsets.UTF_8)) {
            for (Case one : reads()) out.println(MAPPER.writeValueAsString(read(one)));
            for (Case one : writes()) out.println(MAPPER.writeValueAsString(write(one)));
        }
    }

    // What is asked.

    private static final String[] NUMBERS = {
        "0", "1", "-1", "+1", "007", "127", "128", "-128", "-129", "32767", "32768", "2147483647", "2147483648", "-2147483648",
        "9223372036854775807", "9223372036854775808", "-9223372036854775808", "1.0", "1.5", "-0.5", "0.005", "12.345", "-12.345", "1.999",
        "1e2", "1E2", "1.5e-1", "-0.0", "-0", "1e400", "1e-400", "3.4028236e38", "0.1", "16777217", "123456789.123456789",
        "12345678901234567890.12345678901234567890", "99999999999999999999999999999999999999", "100000000000000000000000000000000000000",
        "9007199254740993", "0.30000000000000004", "1e10", "12.50", "1E+3",
    };
    private static final String[] NUMBER_TEXTS = {
        "", " ", " 1 ", "1 000", "1,000", "one", "NaN", "nan", "Infinity", "-Infinity", "+Infinity", "inf", "1f", "1d", "0x10", "1e", ".5", "5.",
        "true", "null", "1_000", "--1", "١",
    };
    private static final String[] NUMBER_TYPES = {
        "TINYINT", "SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL(10, 2)", "DECIMAL(5, 0)", "DECIMAL(38, 18)", "DECIMAL(38, 0)",
    };
    private static final String[] TIMES = {
        "2024-05-06 07:08:09", "2024-05-06T07:08:09", "2024-05-06 07:08:09.1", "2024-05-06 07:08:09.123456", "2024-05-06 07:08:09.123456789",
        "2024-05-06 07:08:09.1234567891", "2024-05-06 07:08", "2024-05-06T07:08", "2024-05-06", "2024-05-06 07:08:09Z", "2024-05-06T07:08:09Z",
        "2024-05-06T07:08:09.5Z", "2024-05-06T07:08:09+02:00", "2024-05-06 07:08:09.123Z", " 2024-05-06 07:08:09 ", "1969-12-31 23:59:59.9",
        "1969-12-31 23:59:59.999999", "0001-01-01 00:00:00", "9999-12-31 23:59:59", "2024-02-29 00:00:00", "2023-02-29 00:00:00",
        "2024-5-6 7:8:9", "2024-05-06 24:00:00", "2024-05-06 23:59:60", "1700000000000", "", "null", "+10000-01-01 00:00:00",
    };
    private static final String[] TIME_TYPES = {
        "TIMESTAMP(3)", "TIMESTAMP(6)", "TIMESTAMP(9)", "TIMESTAMP_LTZ(3)", "TIMESTAMP_LTZ(6)",
    };
    private static final String[] DATES = {
        "2024-05-06", "2024-5-6", "20240506", "2023-02-29", "2024-02-29", "1969-12-31", "0001-01-01", "9999-12-31", " 2024-05-06 ",
        "2024-05-06T00:00:00", "2024-05-06 00:00:00", "2024-05-06Z", "19849", "",
    };
    private static final String[] CLOCKS = {
        "07:08:09", "07:08", "7:8:9", "07:08:09.1", "07:08:09.123456789", "24:00:00", "23:59:59.999", "07:08:09Z", " 07:08:09 ", "25689000", "",
    };
    private static final String[] BOOLEANS = {"true", "false", "TRUE", "False", " true ", "t", "1", "0", "yes", "", "null"};
    private static final String[] BYTES = {"SGVsbG8=", "SGVsbG8", "48656c6c6f", "!!", "", "_-8=", "/+8="};
    private static final String[] STRINGS = {
        "plain", "", " ", " a ", "ß €", "\uD83D\uDE00", "a\\\"b", "a\\nb", "\\u00e9", "\\ud83d\\ude00", "null", "NULL", "true", "1",
    };

    private static List<Case> reads() {
        List<Case> cases = new ArrayList<>();
        csvValues(cases);
        jsonValues(cases);
        csvShapes(cases);
        jsonShapes(cases);
        return cases;
    }

    private static void csv(List<Case> cases, String columns, String text, String... options) {
        cases.add(new Case("csv", options(options), List.of(columns.split("; ")), text));
    }

    private static void json(List<Case> cases, String columns, String text, String... options) {
        cases.add(new Case("json", options(options), List.of(columns.split("; ")), text));
    }

    private static Map<String, String> options(String... options) {
        Map<String, String> map = new TreeMap<>();
        for (int i = 0; i < options.length; i += 2) map.put(options[i], options[i + 1]);
        return map;
    }

    private static void csvValues(List<Case> cases) {
        for (String type : NUMBER_TYPES) {
            for (String text : NUMBERS) csv(cases, "v " + type + "; e INT", text + ",7\n");
            for (String text : NUMBER_TEXTS) if (!text.contains(",")) csv(cases, "v " + type + "; e INT", text + ",7\n");
            csv(cases, "v " + type + "; e INT", "\" 12 \",7\n");
        }
        for (String type : TIME_TYPES) for (String text : TIMES) csv(cases, "v " + type + "; e INT", text + ",7\n");
        for (String text : DATES) csv(cases, "v DATE; e INT", text + ",7\n");
        for (String text : CLOCKS) csv(cases, "v TIME(3); e INT", text + ",7\n");
        for (String text : BOOLEANS) csv(cases, "v BOOLEAN; e INT", text + ",7\n");
        for (String text : BYTES) csv(cases, "v BYTES; e INT", text + ",7\n");
        for (String text : STRINGS) if (!text.contains("\"")) csv(cases, "v STRING; e INT", text + ",7\n");
    }

    private static void csvShapes(List<Case> cases) {
        String three = "a STRING; b STRING; c INT";
        for (String text : new String[] {
            "\"x\",\"y\",1\n", "\"x,y\",\"z\",1\n", "\"say \"\"hi\"\"\",b,1\n", "\"two\nlines\",b,1\n", "5\" pipe,b,1\n", "a\"b\"c,d,1\n", "\"a\"b,c,1\n",
            " \"x\",y,1\n", "\"x\" ,y,1\n", "x,y,1\r\n", "x,y,1", "x,y,1\n\nx,y,2\n", "\n\nx,y,1\n", "x,y,1\n \nx,y,2\n", "x,y,1\n,,\nx,y,2\n", "x,y\n",
            "x,y,1,z\n", "x,y,1,\n", "\"\",\"\",1\n", ",,1\n", ",,\n", "\"x,y,1\n", "x,\"y,1\nx,y,2\n", "\\\"x,y,1\n", "x\\,y,1\n", "#x,y,1\n", "\uFEFFx,y,1\n",
            "x\ty,z,1\n", "", "\n", "'x,y',z,1\n", "\"x\"\"\",y,1\n", "\"\"\"\",y,1\n", "x,y,1\rx,y,2\r", "x,y,\"1\"\n",
        }) csv(cases, three, text);
        for (String text : new String[] {"x\ty\t1\n", "\t\t\n", "\t \t\n", "x,y\tz\t1\n", "\"x\ty\"\tz\t1\n"}) csv(cases, three, text, "csv.field-delimiter", "\t");
        for (String text : new String[] {"x|y|1\n", "x;y|z|1\n", "|y|1\n"}) csv(cases, three, text, "csv.field-delimiter", "|");
        for (String text : new String[] {"NA,y,1\n", "\"NA\",y,1\n", "na,y,1\n", "x,,NA\n", "NAN,y,1\n", " NA,y,1\n", ",y,1\n", "x,y,\n"}) csv(cases, three, text, "csv.null-literal", "NA");
        for (String text : new String[] {",y,1\n", "\"\",y,1\n", "x,y,\n", "x,,\n", ",,\n"}) csv(cases, three, text, "csv.null-literal", "");
        for (String text : new String[] {"x\n", "  \n", "x\n  \ny\n", "x\n\ny\n", "\"\"\n", "x\n\"\"\ny\n"}) csv(cases, "a STRING", text);
    }

    private static void jsonValues(List<Case> cases) {
        for (String type : NUMBER_TYPES) {
            for (String text : NUMBERS) {
                boolean isNumber = !text.startsWith("+") && !text.equals("007");
                if (isNumber) json(cases, "v " + type, "{\"v\":" + text + "}\n");
                json(cases, "v " + type, "{\"v\":\"" + text + "\"}\n");
            }
            for (String text : NUMBER_TEXTS) json(cases, "v " + type, "{\"v\":\"" + text + "\"}\n");
            for (String raw : new String[] {"NaN", "+1", "007", "true", "false", "null", "{}", "[]", "[1]", "Infinity"}) json(cases, "v " + type, "{\"v\":" + raw + "}\n");
        }
        for (String type : TIME_TYPES) {
            for (String text : TIMES) {
                json(cases, "v " + type, "{\"v\":\"" + text + "\"}\n");
                json(cases, "v " + type, "{\"v\":\"" + text + "\"}\n", "json.timestamp-format.standard", "ISO-8601");
            }
            for (String raw : new String[] {"1700000000000", "1700000000", "null", "true", "{}", "1.5"}) json(cases, "v " + type, "{\"v\":" + raw + "}\n");
        }
        for (String text : DATES) json(cases, "v DATE", "{\"v\":\"" + text + "\"}\n");
        json(cases, "v DATE", "{\"v\":19849}\n");
        for (String text : CLOCKS) json(cases, "v TIME(3)", "{\"v\":\"" + text + "\"}\n");
        json(cases, "v TIME(3)", "{\"v\":25689000}\n");
        for (String text : BOOLEANS) json(cases, "v BOOLEAN", "{\"v\":\"" + text + "\"}\n");
        for (String raw : new String[] {"true", "false", "null", "1", "0", "{}", "[]", "1.0"}) json(cases, "v BOOLEAN", "{\"v\":" + raw + "}\n");
        for (String text : BYTES) json(cases, "v BYTES", "{\"v\":\"" + text + "\"}\n");
        json(cases, "v BYTES", "{\"v\":1}\n");
        for (String text : STRINGS) json(cases, "v STRING", "{\"v\":\"" + text + "\"}\n");
        for (String raw : new String[] {
            "1", "12.50", "1e2", "1E+2", "-0.0", "true", "false", "null", "{}", "[]", "{\"a\":1,\"b\":[1,2]}", "[1, 2, 3]", "{ \"a\" : 1.50, \"b\" : null }",
            "{\"b\":1,\"a\":2,\"b\":3}", "[\"\\u00e9\\n\", \"ß\"]", "12345678901234567890123", "0.1000000000000000055", "[1e2, 1.0, 1.10]", "{\"a\":\"x/y\\/z\"}",
        }) json(cases, "v STRING", "{\"v\":" + raw + "}\n");
    }

    private static void jsonShapes(List<Case> cases) {
        String two = "a INT; b STRING";
        for (String text : new String[] {
            "{\"a\":1,\"b\":\"x\"}\n", "{\"b\":\"x\",\"a\":1}\n", "{\"a\":1}\n", "{}\n", "{\"a\":1,\"c\":[1,{\"d\":2}]}\n", "{\"a\":1,\"a\":2}\n", "{\"b\":\"x\",\"b\":null}\n",
            "{\"A\":1,\"b\":\"x\"}\n", " {\"a\":1} \n", "{\"a\":1}\r\n", "{\"a\":1}", "{\"a\":1}\n\n{\"a\":2}\n", "\n\n{\"a\":1}\n", "{\"a\":1}\n \n{\"a\":2}\n",
            "{\"a\":1} {\"a\":2}\n", "{\"a\":1}x\n", "{\"a\":1,}\n", "{\"a\":1\n", "[{\"a\":1}]\n", "[1]\n", "1\n", "\"x\"\n", "null\n", "{a:1}\n", "{'a':1}\n", "nonsense\n",
            "{\"a\":1,\"b\":\"x\ty\"}\n", "{\"a\":1,\"b\":\"\\x\"}\n", "{\"a\":1,\"b\":\"\\ud83d\"}\n", "{\"a\":/*c*/1}\n", "\uFEFF{\"a\":1}\n", "{\"\":1,\"a\":2}\n", "{\"a\" : 1 , \"b\" : \"x\"}\n",
            "{\"\\u0061\":5}\n", "",
        }) json(cases, two, text);
        String nested = "r ROW<x INT, y ROW<z STRING>>; e INT";
        for (String text : new String[] {
            "{\"r\":{\"x\":1,\"y\":{\"z\":\"q\"}},\"e\":1}\n", "{\"r\":null,\"e\":1}\n", "{\"e\":1}\n", "{\"r\":{},\"e\":1}\n", "{\"r\":{\"x\":null,\"y\":null}}\n",
            "{\"r\":{\"x\":\"2\",\"y\":{\"z\":{\"k\":1}}}}\n", "{\"r\":[1,2]}\n", "{\"r\":1}\n", "{\"r\":\"x\"}\n", "{\"r\":{\"x\":1,\"w\":2,\"y\":{\"z\":1,\"v\":[]}},\"e\":2}\n",
            "{\"r\":{\"x\":1,\"x\":2}}\n",
        }) json(cases, nested, text);
    }

    private static List<Case> writes() {
        List<Case> cases = new ArrayList<>();
        String[][] each = {
            {"v TINYINT", "1", "-128"}, {"v BIGINT", "9223372036854775807", "-1"},
            {"v DOUBLE", "0", "1.5", "-0.0", "1e10", "1e7", "9999999.0", "0.001", "0.0001", "1e-5", "1.7976931348623157e308", "4.9e-324", "100", "123456789.125", "\"NaN\"", "\"Infinity\"", "\"-Infinity\""},
            {"v FLOAT", "0.1", "1e10", "3.4028235e38", "16777216", "\"NaN\"", "1.5e-5"},
            {"v DECIMAL(10, 2)", "12.345", "100", "-0.5", "0"}, {"v DECIMAL(38, 18)", "0.000000000000000001", "1", "12345678901234567890.5", "100000"},
            {"v DECIMAL(38, 0)", "99999999999999999999999999999999999999", "1000"}, {"v DECIMAL(12, 10)", "0.0000000001"},
            {"v BOOLEAN", "true", "false"},
            {"v STRING", "\"plain\"", "\"\"", "\" a \"", "\"a,b\"", "\"say \\\"hi\\\"\"", "\"two\\nlines\"", "\"a\\rb\"", "\"tab\\tx\"", "\"ß € \uD83D\uDE00\"", "\"\\u0001\"", "\"a\\\\b\"", "\"'q'\"", "\"a/b\"", "\"null\"", "\"#x\"", "\" \"", "\"a;b\"", "\"x y\"", "\"\\u2028\"", "\"a-b_c.d\"", "\"a:b\"", "\"-1\"", "\"\u007f\""},
            {"v BYTES", "\"SGVsbG8=\"", "\"\""},
            {"v DATE", "\"2024-05-06\"", "\"0001-01-01\"", "\"1969-12-31\""}, {"v TIME(3)", "\"07:08:09\"", "\"07:08:09.123\"", "\"07:08:09.1\"", "\"00:00:00\""},
            {"v TIMESTAMP(0)", "\"2024-05-06 07:08:09\""},
            {"v TIMESTAMP(3)", "\"2024-05-06 07:08:09\"", "\"2024-05-06 07:08:09.1\"", "\"2024-05-06 07:08:00\"", "\"1969-12-31 23:59:59.999\"", "\"0001-01-01 00:00:00\""},
            {"v TIMESTAMP(6)", "\"2024-05-06 07:08:09.123456\"", "\"2024-05-06 07:08:09.1\"", "\"2024-05-06 07:08:09.100001\""}, {"v TIMESTAMP(9)", "\"2024-05-06 07:08:09.123456789\"", "\"2024-05-06 07:08:09.1\""},
            {"v TIMESTAMP_LTZ(3)", "\"2024-05-06 07:08:09Z\"", "\"2024-05-06 07:08:09.123Z\"", "\"1969-12-31 23:59:59.999Z\""}, {"v TIMESTAMP_LTZ(6)", "\"2024-05-06 07:08:09.123456Z\""},
        };
        for (String[] column : each) {
            for (int i = 1; i <= column.length; i++) {
                String record = "{\"v\":" + (i < column.length ? column[i] : "null") + ",\"e\":7}\n";
                json(cases, column[0] + "; e INT", record);
                csv(cases, column[0] + "; e INT", record);
                if (column[0].contains("TIMESTAMP")) json(cases, column[0] + "; e INT", record, "json.timestamp-format.standard", "ISO-8601");
            }
        }
        String row = "{\"r\":{\"x\":1,\"y\":{\"z\":\"q\"}},\"e\":1}\n";
        json(cases, "r ROW<x INT, y ROW<z STRING>>; e INT", row);
        json(cases, "r ROW<x INT, y ROW<z STRING>>; e INT", "{\"r\":null,\"e\":1}\n");
        for (String text : new String[] {"\"x\"", "null", "\"NA\"", "\"\"", "\"a|b\""}) {
            String record = "{\"a\":" + text + ",\"b\":1}\n";
            csv(cases, "a STRING; b INT", record, "csv.null-literal", "NA");
            csv(cases, "a STRING; b INT", record, "csv.field-delimiter", "|");
            csv(cases, "a STRING", "{\"a\":" + text + "}\n");
        }
        return cases;
    }

    // How it is asked.

    private static ObjectNode read(Case one) {
        ObjectNode answer = describe("read", one);
        RowType type = type(one);
        try {
            ArrayNode rows = MAPPER.createArrayNode();
            for (RowData row : rows(one, one.format, type)) add(rows.addArray(), row, type);
            answer.set("rows", rows);
        } catch (Throwable refused) {
            answer.put("fails", true);
        }
        return answer;
    }

    private static List<RowData> rows(Case one, String format, RowType type) throws Exception {
        List<RowData> rows = new ArrayList<>();
        if (format.equals("csv")) {
            // The converter's interface is not public.
            Object converter = new CsvToRowDataConverters(false).createRowConverter(type, true);
            Method convert = converter.getClass().getMethod("convert", JsonNode.class);
            convert.setAccessible(true);
            MappingIterator<JsonNode> records =
                    new CsvMapper().readerFor(JsonNode.class).with(schema(one, type)).readValues(new ByteArrayInputStream(bytes(one.text)));
            while (records.hasNext()) {
                RowData row = (RowData) convert.invoke(converter, records.next());
                if (row != null) rows.add(row);
            }
            return rows;
        }
        JsonParserRowDataDeserializationSchema lines =
                new JsonParserRowDataDeserializationSchema(type, InternalTypeInfo.of(type), false, false, standard(one));
        lines.open(null);
        // As DelimitedInputFormat cuts a file.
        for (String line : one.text.split("\n", -1)) {
            String record = line.endsWith("\r") ? line.substring(0, line.length() - 1) : line;
            RowData row = lines.deserialize(bytes(record));
            if (row != null) rows.add(row);
        }
        return rows;
    }

    private static CsvSchema schema(Case one, RowType type) {
        CsvSchema.Builder schema = CsvRowSchemaConverter.convert(type).rebuild();
        String delimiter = one.options.get("csv.field-delimiter"), nothing = one.options.get("csv.null-literal");
        if (delimiter != null) schema.setColumnSeparator(delimiter.charAt(0));
        if (nothing != null) schema.setNullValue(nothing);
        return schema.build();
    }

    private static TimestampFormat standard(Case one) {
        return "ISO-8601".equals(one.options.get("json.timestamp-format.standard")) ? TimestampFormat.ISO_8601 : TimestampFormat.SQL;
    }

    private static ObjectNode write(Case one) throws Exception {
        ObjectNode answer = describe("write", one);
        RowType type = type(one);
        Case source = new Case("json", Map.of(), one.columns, one.text);
        try {
            StringBuilder file = new StringBuilder();
            for (RowData row : rows(source, "json", type)) {
                byte[] line;
                if (one.format.equals("csv")) {
                    CsvRowDataSerializationSchema.Builder schema = new CsvRowDataSerializationSchema.Builder(type);
                    String delimiter = one.options.get("csv.field-delimiter"), nothing = one.options.get("csv.null-literal");
                    if (delimiter != null) schema.setFieldDelimiter(delimiter.charAt(0));
                    if (nothing != null) schema.setNullLiteral(nothing);
                    CsvRowDataSerializationSchema lines = schema.build();
                    lines.open(null);
                    line = lines.serialize(row);
                } else {
                    JsonRowDataSerializationSchema lines = new JsonRowDataSerializationSchema(
                            type, standard(one), JsonFormatOptions.MapNullKeyMode.FAIL, "null", false, false);
                    lines.open(null);
                    line = lines.serialize(row);
                }
                file.append(new String(line, StandardCharsets.UTF_8)).append('\n');
            }
            answer.put("file", file.toString());
        } catch (Throwable refused) {
            answer.put("fails", true);
        }
        return answer;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static RowType type(Case one) {
        return (RowType) LogicalTypeParser.parse("ROW<" + String.join(", ", one.columns) + ">", Formats.class.getClassLoader());
    }

    private static ObjectNode describe(String what, Case one) {
        ObjectNode node = MAPPER.createObjectNode();
        node.put("do", what).put("format", one.format);
        if (!one.options.isEmpty()) node.set("options", MAPPER.valueToTree(one.options));
        node.set("columns", MAPPER.valueToTree(one.columns));
        node.put("text", one.text);
        return node;
    }

    private static void add(ArrayNode to, RowData row, RowType type) {
        for (int i = 0; i < type.getFieldCount(); i++) {
            LogicalType field = type.getTypeAt(i);
            Object value = RowData.createFieldGetter(field, i).getFieldOrNull(row);
            if (value == null) to.addNull();
            else if (field instanceof RowType nested) add(to.addArray(), (RowData) value, nested);
            else to.add(text(value, field));
        }
    }

    /** Times to their column's precision, as each serializer or cast to it leaves them. */
    private static String text(Object value, LogicalType type) {
        return switch (type.getTypeRoot()) {
            case TIMESTAMP_WITHOUT_TIME_ZONE -> text((TimestampData) value, ((TimestampType) type).getPrecision());
            case TIMESTAMP_WITH_LOCAL_TIME_ZONE -> text((TimestampData) value, ((LocalZonedTimestampType) type).getPrecision());
            case DATE -> DateTimeFormatter.ofPattern("uuuu-MM-dd").format(LocalDate.ofEpochDay((int) value));
            case TIME_WITHOUT_TIME_ZONE -> DateTimeFormatter.ofPattern("HH:mm:ss.SSS").format(LocalTime.ofNanoOfDay((int) value * 1_000_000L));
            case VARBINARY -> HexFormat.of().formatHex((byte[]) value);
            case DECIMAL -> ((DecimalData) value).toBigDecimal().toPlainString();
            default -> value.toString();
        };
    }

    private static String text(TimestampData value, int precision) {
        LocalDateTime time = value.toLocalDateTime();
        int unit = (int) Math.pow(10, 9 - Math.max(3, precision));
        LocalDateTime cut = time.truncatedTo(ChronoUnit.SECONDS).plusNanos(time.getNano() / unit * unit);
        return DateTimeFormatter.ofPattern("uuuu-MM-dd HH:mm:ss.SSSSSSSSS").format(cut);
    }
}
