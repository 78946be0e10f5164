package smartscale.peers;

import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.Suppressed.BufferConfig;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.processor.TimestampExtractor;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Count, errors and p99 per service over tumbling windows, as Kafka Streams' DSL says it: groupByKey, windowedBy,
 * aggregate, suppress until the window closes. Arguments: broker, input topic, output topic, window ms, grace ms,
 * state folder, processing guarantee.
 */
public final class Peer {
    public static void main(String[] arguments) {
        String input = arguments[1];
        long sizeMs = Long.parseLong(arguments[3]);
        long graceMs = Long.parseLong(arguments[4]);
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "peer-" + System.nanoTime());
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[5]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, arguments[6]);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        settings.put(StreamsConfig.consumerPrefix("max.partition.fetch.bytes"), 8 << 20);

        // The event is parsed once, in the deserialiser; the extractor takes its time from it.
        Deserializer<Event> parse = (topic, value) -> Event.parse(value);
        Serde<Event> events = Serdes.serdeFrom((topic, event) -> {
            throw new UnsupportedOperationException("events are only read");
        }, parse);
        TimestampExtractor time =
            (ConsumerRecord<Object, Object> record, long before) -> ((Event) record.value()).timeMs;

        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(input, Consumed.with(Serdes.String(), events).withTimestampExtractor(time))
            .groupByKey(Grouped.with(Serdes.String(), events))
            .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofMillis(sizeMs), Duration.ofMillis(graceMs)))
            .aggregate(
                Stats::new,
                (service, event, stats) -> stats.add(event.latencyMs, event.error),
                Materialized.<String, Stats, WindowStore<Bytes, byte[]>>as("stats")
                    .withKeySerde(Serdes.String())
                    .withValueSerde(statsSerde()))
            .suppress(Suppressed.untilWindowCloses(BufferConfig.unbounded()))
            .toStream()
            .map((window, stats) -> KeyValue.pair(
                window.key(), stats.json(window.key(), window.window().start())))
            .to(arguments[2], Produced.with(Serdes.String(), Serdes.String()));

        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(5))));
        streams.start();
    }

    private static Serde<Stats> statsSerde() {
        Serializer<Stats> serializer = (topic, stats) -> {
            if (stats == null) {
                return null;
            }
            ByteBuffer buffer = ByteBuffer.allocate(12 + 4 * stats.buckets.length);
            buffer.putInt(stats.count).putInt(stats.errors).putInt(stats.first);
            for (int bucket : stats.buckets) {
                buffer.putInt(bucket);
            }
            return buffer.array();
        };
        Deserializer<Stats> deserializer = (topic, bytes) -> {
            if (bytes == null) {
                return null;
            }
            ByteBuffer buffer = ByteBuffer.wrap(bytes);
            Stats stats = new Stats();
            stats.count = buffer.getInt();
            stats.errors = buffer.getInt();
            stats.first = buffer.getInt();
            stats.buckets = new int[buffer.remaining() / 4];
            buffer.asIntBuffer().get(stats.buckets);
            return stats;
        };
        return Serdes.serdeFrom(serializer, deserializer);
    }
}
