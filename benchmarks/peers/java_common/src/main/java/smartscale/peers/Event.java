package smartscale.peers;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Instant;

/** What the aggregation needs of a JSON event, read by Jackson's streaming parser (no tree, no reflection). */
public final class Event {
    private static final JsonFactory JSON = new JsonFactory();

    public String service = "";
    public long timeMs;
    public boolean error;
    public double latencyMs;

    public Event() {}

    static Event parse(byte[] value) {
        Event event = new Event();
        try (JsonParser parser = JSON.createParser(value)) {
            parser.nextToken();
            while (parser.nextToken() != JsonToken.END_OBJECT) {
                String field = parser.currentName();
                parser.nextToken();
                switch (field) {
                    case "time" -> event.timeMs = Instant.parse(parser.getText()).toEpochMilli();
                    case "status" -> event.error = parser.getIntValue() >= 500;
                    case "latency_ms" -> event.latencyMs = parser.getDoubleValue();
                    default -> parser.skipChildren();
                }
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return event;
    }
}
