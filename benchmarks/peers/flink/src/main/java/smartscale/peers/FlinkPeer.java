package smartscale.peers;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.SimpleStringSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/**
 * Count, errors and p99 per service over tumbling windows, as Flink's DataStream API says it, in a local mini cluster of
 * parallelism 1 with state on the heap. Arguments: broker, input topic, output topic, window ms, out-of-orderness ms.
 */
public final class FlinkPeer {
    public static void main(String[] arguments) throws Exception {
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.createLocalEnvironment(1);
        environment.getConfig().enableObjectReuse();
        KafkaSource<Event> source = KafkaSource.<Event>builder()
            .setBootstrapServers(arguments[0])
            .setTopics(arguments[1])
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setProperty("max.partition.fetch.bytes", String.valueOf(8 << 20))
            .setProperty("max.poll.records", "5000")
            .setDeserializer(new Parse())
            .build();
        WatermarkStrategy<Event> watermarks = WatermarkStrategy
            .<Event>forBoundedOutOfOrderness(Duration.ofMillis(Long.parseLong(arguments[4])))
            .withTimestampAssigner((event, before) -> event.timeMs);
        KafkaSink<String> sink = KafkaSink.<String>builder()
            .setBootstrapServers(arguments[0])
            .setRecordSerializer(KafkaRecordSerializationSchema.<String>builder()
                .setTopic(arguments[2])
                .setValueSerializationSchema(new SimpleStringSchema())
                .build())
            .build();
        environment.fromSource(source, watermarks, "events")
            .keyBy(event -> event.service)
            .window(TumblingEventTimeWindows.of(Duration.ofMillis(Long.parseLong(arguments[3]))))
            .aggregate(new Aggregate(), new Format())
            .sinkTo(sink);
        environment.execute("peer");
    }

    /** The event and, from the record's key, its service. */
    static final class Parse implements KafkaRecordDeserializationSchema<Event> {
        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Event> out) {
            Event event = Event.parse(record.value());
            event.service = new String(record.key(), StandardCharsets.UTF_8);
            out.collect(event);
        }

        @Override
        public TypeInformation<Event> getProducedType() {
            return TypeInformation.of(Event.class);
        }
    }

    static final class Aggregate implements AggregateFunction<Event, Stats, Stats> {
        @Override
        public Stats createAccumulator() {
            return new Stats();
        }

        @Override
        public Stats add(Event event, Stats stats) {
            return stats.add(event.latencyMs, event.error);
        }

        @Override
        public Stats getResult(Stats stats) {
            return stats;
        }

        @Override
        public Stats merge(Stats one, Stats other) {
            throw new UnsupportedOperationException("tumbling windows do not merge");
        }
    }

    static final class Format extends ProcessWindowFunction<Stats, String, String, TimeWindow> {
        @Override
        public void process(String service, Context context, Iterable<Stats> stats, Collector<String> out) {
            out.collect(stats.iterator().next().json(service, context.window().getStart()));
        }
    }
}
