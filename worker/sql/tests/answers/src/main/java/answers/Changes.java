package answers;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.api.common.RuntimeExecutionMode;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.Table;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.types.Row;
import org.apache.flink.types.RowKind;
import org.apache.flink.util.CloseableIterator;

/**
 * Asks for the final table of each query of {@code changes.sql} over each set of its rows, as a stream. A line of JSON for each: {"rows":
 * "few", "sql": …, "types": […], "table": [[…], …]}; "refused" or "fails" where Flink does not take the query, or stops.
 */
final class Changes {
    private final String host;
    private final int port;
    private final Configuration conf;
    private final List<String> declared = new ArrayList<>();
    private final Map<String, List<String>> rows = new LinkedHashMap<>();
    private final List<String> queries = new ArrayList<>();

    Changes(Path script, String host, int port, Configuration conf) throws Exception {
        this.host = host;
        this.port = port;
        this.conf = conf;
        List<String> into = null;
        StringBuilder statement = new StringBuilder();
        boolean asks = false;
        for (String line : Files.readAllLines(script)) {
            if (line.startsWith("--")) continue;
            if (line.startsWith("ROWS ")) {
                rows.put(line.substring(5), into = new ArrayList<>());
            } else if (line.equals("QUERIES")) {
                asks = true;
                into = null;
            } else if (into != null) {
                if (!line.isBlank()) into.add(line);
            } else if (line.endsWith(";")) {
                statement.append(line, 0, line.length() - 1);
                (asks ? queries : declared).add(statement.toString());
                statement.setLength(0);
            } else if (!line.isBlank()) {
                statement.append(line).append('\n');
            }
        }
    }

    List<String> all() throws Exception {
        List<String> lines = new ArrayList<>();
        for (var set : rows.entrySet()) {
            Path file = Files.createTempFile("rows", ".csv");
            Files.write(file, set.getValue(), StandardCharsets.UTF_8);
            for (String query : queries) {
                lines.add("{\"rows\":" + Typed.json(set.getKey()) + ",\"sql\":" + Typed.json(query) + "," + answer(query, file) + "}");
            }
            System.err.printf("changes of %s%n", set.getKey());
        }
        return lines;
    }

    private String answer(String query, Path file) throws Exception {
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createRemoteEnvironment(host, port, conf);
        env.setRuntimeMode(RuntimeExecutionMode.STREAMING);
        env.setParallelism(1);
        StreamTableEnvironment tables = StreamTableEnvironment.create(env);
        tables.getConfig().set("table.local-time-zone", "UTC");
        String from = " WITH ('connector' = 'filesystem', 'path' = '" + file.toUri() + "', 'format' = 'csv', 'csv.field-delimiter' = '|', 'csv.null-literal' = 'NULL')";
        for (String statement : declared) {
            tables.executeSql(statement.startsWith("CREATE TABLE") ? statement + from : statement);
        }
        List<String> types = new ArrayList<>();
        Table table;
        try {
            table = tables.sqlQuery(query);
            table.getResolvedSchema().getColumnDataTypes().forEach(type -> types.add(Typed.json(Typed.type(type.getLogicalType().asSummaryString()))));
            table.explain();
        } catch (Throwable refused) {
            return "\"refused\":" + Typed.json(Answers.cause(refused));
        }
        TreeMap<String, Long> left = new TreeMap<>();
        try (CloseableIterator<Row> it = table.execute().collect()) {
            while (it.hasNext()) {
                Row row = it.next();
                List<String> cells = new ArrayList<>();
                for (int i = 0; i < row.getArity(); i++) cells.add(Typed.json(row.getField(i) == null ? null : Typed.text(row.getField(i))));
                long sign = row.getKind() == RowKind.INSERT || row.getKind() == RowKind.UPDATE_AFTER ? 1 : -1;
                left.merge("[" + String.join(",", cells) + "]", sign, (a, b) -> a + b == 0 ? null : a + b);
            }
        } catch (Throwable failed) {
            return "\"fails\":" + Typed.json(Answers.cause(failed));
        }
        List<String> all = new ArrayList<>();
        left.forEach((row, count) -> {
            for (long i = 0; i < count; i++) all.add(row);
        });
        if (left.values().stream().anyMatch(count -> count < 0)) return "\"fails\":\"takes back a row that is not there\"";
        return "\"types\":[" + String.join(",", types) + "],\"table\":[" + String.join(",", all) + "]";
    }
}
