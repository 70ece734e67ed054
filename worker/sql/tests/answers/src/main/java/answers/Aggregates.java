package answers;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.types.Row;

/**
 * What is asked of aggregates: each of {@link #CALLS} of groups of edge values of each type, in this order, and of one without values.
 * A line of JSON for each: {"sql": "SUM(a)", "of": "INT", "values": […], "type": …, "value": …}.
 */
final class Aggregates {
    private static final List<String> CALLS =
            List.of("COUNT(*)", "COUNT(a)", "SUM(a)", "AVG(a)", "MIN(a)", "MAX(a)", "COUNT(DISTINCT a)", "SUM(DISTINCT a)", "AVG(DISTINCT a)");

    /** Answers a query over a table t(g INT, a type) of these rows: the types of the columns, and rows of texts. */
    interface Flink {
        Result ask(String query, String type, List<Row> rows) throws Exception;
    }

    /** Types without g, and values by g. */
    record Result(List<String> types, Map<Integer, String[]> values) {}

    private final Flink flink;
    private final List<String> lines = new ArrayList<>();

    Aggregates(Flink flink) {
        this.flink = flink;
    }

    List<String> all(Map<String, List<String>> edges) {
        edges.forEach((type, values) -> {
            List<List<String>> groups = groups(values);
            for (String call : CALLS) {
                ask(call, type, groups);
                ask(call, type, List.of(List.of()));
            }
            System.err.printf("aggregates of %s%n", type);
        });
        return lines;
    }

    /** Each value alone, twice, and with the next one; all of them forwards and backwards, with and without NULL. */
    private static List<List<String>> groups(List<String> values) {
        List<List<String>> groups = new ArrayList<>();
        for (int i = 0; i < values.size(); i++) {
            String value = values.get(i), next = values.get((i + 1) % values.size());
            groups.add(Collections.singletonList(value));
            groups.add(list(value, value));
            groups.add(list(value, next));
            groups.add(list(next, value, value));
        }
        groups.add(new ArrayList<>(values));
        List<String> backwards = new ArrayList<>(values);
        Collections.reverse(backwards);
        groups.add(backwards);
        List<String> known = new ArrayList<>(values);
        known.removeIf(value -> value == null);
        groups.add(known);
        return new ArrayList<>(new java.util.LinkedHashSet<>(groups));
    }

    private static List<String> list(String... values) {
        List<String> list = new ArrayList<>();
        Collections.addAll(list, values);
        return list;
    }

    /** All groups at once; where that fails, in halves. */
    private void ask(String call, String type, List<List<String>> groups) {
        try {
            List<Row> rows = new ArrayList<>();
            for (int g = 0; g < groups.size(); g++) {
                for (String value : groups.get(g)) rows.add(Row.of(g, Typed.value(type, value)));
            }
            // A group without rows is one of which the aggregate takes none.
            boolean empty = rows.isEmpty();
            if (empty) rows.add(Row.of(0, null));
            String filter = empty ? " FILTER (WHERE g < 0)" : "";
            Result result = flink.ask("SELECT g, " + call + filter + " FROM t GROUP BY g", type, rows);
            for (int g = 0; g < groups.size(); g++) {
                line(call, type, groups.get(g), "\"type\":" + Typed.json(result.types().get(0)) + ",\"value\":" + Typed.json(result.values().get(g)[0]));
            }
        } catch (Answers.Refused refused) {
            // For whatever values.
            if (!groups.get(0).isEmpty()) line(call, type, groups.get(0), "\"refused\":" + Typed.json(Answers.cause(refused.getCause())));
        } catch (Throwable failure) {
            if (groups.size() > 1) {
                ask(call, type, groups.subList(0, groups.size() / 2));
                ask(call, type, groups.subList(groups.size() / 2, groups.size()));
            } else {
                line(call, type, groups.get(0), "\"fails\":" + Typed.json(Answers.cause(failure)));
            }
        }
    }

    private void line(String call, String type, List<String> values, String answer) {
        StringBuilder out = new StringBuilder("{\"sql\":").append(Typed.json(call)).append(",\"of\":").append(Typed.json(type)).append(",\"values\":[");
        for (int i = 0; i < values.size(); i++) out.append(i > 0 ? "," : "").append(Typed.json(values.get(i)));
        lines.add(out.append("],").append(answer).append('}').toString());
    }

    /** Types whose aggregates are asked, with their edge values, and more of them where sums go over. */
    static Map<String, List<String>> edges(Map<String, List<String>> edges) {
        Map<String, List<String>> more = new LinkedHashMap<>(edges);
        more.put("DECIMAL(20, 10)", list(null, "0.0000000001", "-0.0000000001", "9999999999.9999999999", "0.3333333333"));
        more.put("DECIMAL(3, 0)", list(null, "999", "-999", "1"));
        more.put("DECIMAL(19, 6)", list(null, "0.000001", "9999999999999.999999", "1.000000"));
        return more;
    }
}
