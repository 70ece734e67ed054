package answers;

import java.math.BigDecimal;
import java.time.Duration;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.Period;
import java.time.ZoneOffset;
import java.util.HexFormat;
import org.apache.flink.types.Row;

/** Values as text and back: the text of a value is the same in every row of the table. */
final class Typed {
    private Typed() {}

    /** The value that a text stands for in a type of Flink; null for null. */
    static Object value(String type, String text) {
        if (text == null) return null;
        String kind = type.replaceAll("[ (].*", "");
        return switch (kind) {
            case "BOOLEAN" -> Boolean.valueOf(text);
            case "TINYINT" -> Byte.valueOf(text);
            case "SMALLINT" -> Short.valueOf(text);
            case "INT" -> Integer.valueOf(text);
            case "BIGINT" -> Long.valueOf(text);
            case "FLOAT" -> Float.valueOf(text);
            case "DOUBLE" -> Double.valueOf(text);
            case "DECIMAL" -> new BigDecimal(text);
            case "STRING" -> text;
            case "BYTES" -> HexFormat.of().parseHex(text);
            case "DATE" -> LocalDate.parse(text);
            case "TIME" -> LocalTime.parse(text);
            case "TIMESTAMP" -> LocalDateTime.parse(text.replace(' ', 'T'));
            case "TIMESTAMP_LTZ" -> LocalDateTime.parse(text.replace(' ', 'T')).toInstant(ZoneOffset.UTC);
            default -> throw new IllegalArgumentException(type);
        };
    }

    /** The text of a value that Flink gave. */
    static String text(Object value) {
        if (value instanceof BigDecimal d) return d.toPlainString();
        if (value instanceof byte[] b) return HexFormat.of().formatHex(b);
        if (value instanceof LocalDateTime t) return time(t);
        if (value instanceof Instant t) return time(LocalDateTime.ofInstant(t, ZoneOffset.UTC));
        if (value instanceof LocalTime t) return clock(t);
        if (value instanceof Duration || value instanceof Period || value instanceof Row) return value.toString();
        return String.valueOf(value);
    }

    private static String time(LocalDateTime t) {
        return t.toLocalDate() + " " + clock(t.toLocalTime());
    }

    /** With as many digits of the second as are not zero. */
    private static String clock(LocalTime t) {
        String text = String.format("%02d:%02d:%02d.%09d", t.getHour(), t.getMinute(), t.getSecond(), t.getNano());
        return text.replaceAll("\\.?0+$", text.endsWith(".000000000") ? ".000000000" : "").replace(".000000000", "");
    }

    /** Flink's type without its lengths and without NOT NULL, which types have no part in what a function means. */
    static String type(String summary) {
        return summary.replaceAll(" NOT NULL", "").replaceAll("\\b(VAR)?CHAR\\(\\d+\\)", "STRING").replaceAll("\\b(VAR)?BINARY\\(\\d+\\)", "BYTES");
    }

    /** A text in JSON. */
    static String json(String text) {
        if (text == null) return "null";
        StringBuilder out = new StringBuilder("\"");
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            switch (c) {
                case '"' -> out.append("\\\"");
                case '\\' -> out.append("\\\\");
                case '\n' -> out.append("\\n");
                case '\r' -> out.append("\\r");
                case '\t' -> out.append("\\t");
                default -> {
                    boolean paired = Character.isHighSurrogate(c) && i + 1 < text.length() && Character.isLowSurrogate(text.charAt(i + 1));
                    if (paired) out.append(c).append(text.charAt(++i));
                    else if (c < ' ' || Character.isSurrogate(c)) out.append(String.format("\\u%04x", (int) c));
                    else out.append(c);
                }
            }
        }
        return out.append('"').toString();
    }
}
