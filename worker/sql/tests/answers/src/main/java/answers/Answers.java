package answers;

import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.api.common.RuntimeExecutionMode;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.minicluster.MiniCluster;
import org.apache.flink.runtime.minicluster.MiniClusterConfiguration;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.Schema;
import org.apache.flink.table.api.Table;
import org.apache.flink.table.api.TableResult;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.table.runtime.typeutils.ExternalTypeInfo;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.logical.utils.LogicalTypeParser;
import org.apache.flink.table.types.utils.TypeConversions;
import org.apache.flink.types.Row;
import org.apache.flink.util.CloseableIterator;

/**
 * Asks Flink for the value and the type of every expression of {@link Expressions}, over rows with columns a, b, c …, and prints a
 * line of JSON for each: {"sql": …, "a": [type, text], …, "type": …, "value": …}. Where Flink does not take the expression "refused"
 * stands for type and value, where it fails at the row "fails".
 */
public final class Answers {
    /** Expressions asked in one query. */
    private static final int TOGETHER = 48;

    private final StreamExecutionEnvironment env;
    private final StreamTableEnvironment tables;
    private final Map<String, String> lines = new LinkedHashMap<>();

    private Answers(StreamExecutionEnvironment env) {
        this.env = env;
        this.tables = StreamTableEnvironment.create(env);
        tables.getConfig().set("table.local-time-zone", "UTC");
        // Values are added in the order of the rows.
        tables.getConfig().set("table.optimizer.agg-phase-strategy", "ONE_PHASE");
    }

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), false, StandardCharsets.UTF_8);
        // Flink prints code that it could not compile.
        System.setOut(System.err);
        String word = args.length > 0 ? args[0] : "";
        Configuration conf = new Configuration();
        conf.setString("rest.bind-port", "0");
        conf.setString("rest.port", "0");
        conf.setString("restart-strategy.type", "none");
        conf.setString("taskmanager.memory.managed.size", "128mb");
        conf.setString("taskmanager.memory.network.max", "64mb");
        MiniClusterConfiguration cluster = new MiniClusterConfiguration.Builder().setConfiguration(conf).setNumTaskManagers(1).setNumSlotsPerTaskManager(2).build();
        try (MiniCluster mini = new MiniCluster(cluster)) {
            mini.start();
            StreamExecutionEnvironment env = StreamExecutionEnvironment.createRemoteEnvironment("localhost", mini.getRestAddress().get().getPort(), conf);
            env.setRuntimeMode(RuntimeExecutionMode.BATCH);
            env.setParallelism(1);
            if (word.equals("--changes")) {
                int port = mini.getRestAddress().get().getPort();
                new Changes(Path.of(args[1]), "localhost", port, conf).all().forEach(out::println);
                out.flush();
                System.exit(0);
            }
            Answers answers = new Answers(env);
            if (word.equals("--aggregates")) {
                new Aggregates(answers::aggregated).all(Aggregates.edges(new Expressions().edges())).forEach(out::println);
                out.flush();
                System.exit(0);
            }
            if (word.equals("--expressions")) {
                Map<List<String>, List<Asked>> byTypes = new LinkedHashMap<>();
                for (Asked asked : listed(Path.of(args[1]))) byTypes.computeIfAbsent(asked.types(), t -> new ArrayList<>()).add(asked);
                for (List<Asked> given : byTypes.values()) {
                    answers.askAll(given);
                    for (Asked asked : given) {
                        String line = answers.lines.remove(asked.key());
                        if (line != null) out.println(line);
                    }
                    out.flush();
                }
                out.flush();
                System.exit(0);
            }
            List<Asked> all = new Expressions().all().stream().filter(asked -> asked.sql().contains(word)).toList();
            answers.askAll(all);
            for (Asked asked : all) {
                String line = answers.lines.remove(asked.key());
                if (line != null) out.println(line);
            }
            out.flush();
        }
        System.exit(0);
    }

    /** An expression and one row of values. */
    record Asked(String sql, List<String> types, List<String> values) {
        String key() {
            return sql + "\u0000" + types + "\u0000" + values;
        }
    }

    /** The expressions of a file: a line "types:", lines "row:", and the expressions over these. */
    private static List<Asked> listed(Path file) throws Exception {
        List<Asked> all = new ArrayList<>();
        List<String> types = List.of();
        List<List<String>> rows = new ArrayList<>();
        for (String line : Files.readAllLines(file)) {
            if (line.startsWith("types:")) {
                types = parts(line.substring(6).strip(), ", ");
                rows = new ArrayList<>();
            } else if (line.startsWith("row:")) {
                List<String> values = new ArrayList<>();
                String row = line.length() > 5 ? line.substring(5) : "";
                if (!types.isEmpty()) for (String value : row.split(" \\| ", -1)) values.add(value.equals("NULL") ? null : value);
                rows.add(values);
            } else if (!line.isBlank() && !line.startsWith("#")) {
                for (List<String> row : rows) all.add(new Asked(line, types, row));
            }
        }
        return all;
    }

    private static List<String> parts(String text, String separator) {
        return text.isEmpty() ? List.of() : List.of(text.split(separator));
    }

    /** Expressions with the same columns and the same rows go together. */
    private void askAll(List<Asked> all) {
        Map<String, Map<String, List<List<String>>>> byTypes = new LinkedHashMap<>();
        Map<String, List<String>> types = new LinkedHashMap<>();
        for (Asked asked : all) {
            types.put(asked.types().toString(), asked.types());
            byTypes.computeIfAbsent(asked.types().toString(), t -> new LinkedHashMap<>()).computeIfAbsent(asked.sql(), s -> new ArrayList<>()).add(asked.values());
        }
        int done = 0;
        for (var entry : byTypes.entrySet()) {
            Map<List<List<String>>, List<String>> byRows = new LinkedHashMap<>();
            entry.getValue().forEach((sql, rows) -> byRows.computeIfAbsent(rows, r -> new ArrayList<>()).add(sql));
            for (var group : byRows.entrySet()) {
                List<String> sqls = group.getValue();
                for (int from = 0; from < sqls.size(); from += TOGETHER) {
                    ask(types.get(entry.getKey()), sqls.subList(from, Math.min(sqls.size(), from + TOGETHER)), group.getKey());
                }
            }
            System.err.printf("%d of %d kinds of rows%n", ++done, byTypes.size());
        }
    }

    /** All at once; where that fails, in halves, down to one expression and one row. */
    private void ask(List<String> types, List<String> sqls, List<List<String>> rows) {
        try {
            answer(types, sqls, rows);
        } catch (Throwable failure) {
            if (sqls.size() > 1) {
                ask(types, sqls.subList(0, sqls.size() / 2), rows);
                ask(types, sqls.subList(sqls.size() / 2, sqls.size()), rows);
            } else if (failure instanceof Refused) {
                // What is refused is so for every row: one line says it.
                line(sqls.get(0), types, rows.get(0), "\"refused\":" + Typed.json(cause(failure.getCause())));
            } else if (rows.size() > 1) {
                ask(types, sqls, rows.subList(0, rows.size() / 2));
                ask(types, sqls, rows.subList(rows.size() / 2, rows.size()));
            } else {
                line(sqls.get(0), types, rows.get(0), "\"fails\":" + Typed.json(cause(failure)));
            }
        }
    }

    /** Flink does not take the expression. */
    static final class Refused extends RuntimeException {
        Refused(Throwable cause) {
            super(cause);
        }
    }

    private void answer(List<String> types, List<String> sqls, List<List<String>> rows) throws Exception {
        List<Row> given = new ArrayList<>();
        for (int i = 0; i < rows.size(); i++) {
            Row row = new Row(types.size() + 1);
            row.setField(0, i);
            for (int c = 0; c < types.size(); c++) row.setField(c + 1, Typed.value(types.get(c), rows.get(i).get(c)));
            given.add(row);
        }
        List<DataTypes.Field> fields = new ArrayList<>();
        Schema.Builder schema = Schema.newBuilder();
        fields.add(DataTypes.FIELD("id", DataTypes.INT()));
        schema.column("id", DataTypes.INT());
        for (int c = 0; c < types.size(); c++) {
            DataType type = TypeConversions.fromLogicalToDataType(LogicalTypeParser.parse(types.get(c), Answers.class.getClassLoader()));
            fields.add(DataTypes.FIELD(name(c), type));
            schema.column(name(c), type);
        }
        TypeInformation<Row> info = ExternalTypeInfo.of(DataTypes.ROW(fields));
        DataStream<Row> stream = env.fromCollection(given, info);
        tables.createTemporaryView("t", stream, schema.build());
        Table query;
        List<String> found = new ArrayList<>();
        TableResult result;
        try {
            query = tables.sqlQuery("SELECT id, " + String.join(", ", sqls) + " FROM t");
            query.getResolvedSchema().getColumnDataTypes().forEach(type -> found.add(Typed.type(type.getLogicalType().asSummaryString())));
            query.explain();
        } catch (Throwable refused) {
            throw new Refused(refused);
        } finally {
            tables.dropTemporaryView("t");
        }
        List<String[]> pending = new ArrayList<>(Collections.nCopies(rows.size(), null));
        result = query.execute();
        try (CloseableIterator<Row> it = result.collect()) {
            while (it.hasNext()) {
                Row row = it.next();
                String[] values = new String[sqls.size()];
                for (int i = 0; i < sqls.size(); i++) {
                    Object value = row.getField(i + 1);
                    values[i] = value == null ? null : Typed.text(value);
                }
                pending.set((Integer) row.getField(0), values);
            }
        }
        for (int r = 0; r < rows.size(); r++) {
            for (int i = 0; i < sqls.size(); i++) {
                line(sqls.get(i), types, rows.get(r), "\"type\":" + Typed.json(found.get(i + 1)) + ",\"value\":" + Typed.json(pending.get(r)[i]));
            }
        }
    }

    /** A query over t(g, a). */
    private Aggregates.Result aggregated(String sql, String type, List<Row> rows) throws Exception {
        DataType of = TypeConversions.fromLogicalToDataType(LogicalTypeParser.parse(type, Answers.class.getClassLoader()));
        TypeInformation<Row> info = ExternalTypeInfo.of(DataTypes.ROW(DataTypes.FIELD("g", DataTypes.INT()), DataTypes.FIELD("a", of)));
        tables.createTemporaryView("t", env.fromCollection(rows, info), Schema.newBuilder().column("g", DataTypes.INT()).column("a", of).build());
        List<String> types = new ArrayList<>();
        Table query;
        try {
            query = tables.sqlQuery(sql);
            query.getResolvedSchema().getColumnDataTypes().forEach(found -> types.add(Typed.type(found.getLogicalType().asSummaryString())));
            query.explain();
        } catch (Throwable refused) {
            throw new Refused(refused);
        } finally {
            tables.dropTemporaryView("t");
        }
        Map<Integer, String[]> values = new LinkedHashMap<>();
        try (CloseableIterator<Row> it = query.execute().collect()) {
            while (it.hasNext()) {
                Row row = it.next();
                String[] texts = new String[row.getArity() - 1];
                for (int i = 0; i < texts.length; i++) texts[i] = row.getField(i + 1) == null ? null : Typed.text(row.getField(i + 1));
                values.put((Integer) row.getField(0), texts);
            }
        }
        return new Aggregates.Result(types.subList(1, types.size()), values);
    }

    private void line(String sql, List<String> types, List<String> values, String answer) {
        StringBuilder out = new StringBuilder("{\"sql\":").append(Typed.json(sql));
        for (int c = 0; c < types.size(); c++) {
            out.append(",\"").append(name(c)).append("\":[").append(Typed.json(types.get(c))).append(',').append(Typed.json(values.get(c))).append(']');
        }
        lines.put(new Asked(sql, types, values).key(), out.append(',').append(answer).append('}').toString());
    }

    private static String name(int column) {
        return String.valueOf((char) ('a' + column));
    }

    /** The innermost cause, short. */
    static String cause(Throwable failure) {
        Throwable last = failure;
        while (last.getCause() != null) last = last.getCause();
        String text = String.valueOf(last.getMessage()).replaceAll("\\s+", " ");
        return text.length() > 60 ? text.substring(0, 60) : text;
    }
}
