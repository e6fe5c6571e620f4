import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.Utils;

/**
 * What any Java program may do: send events, with nothing of Tally's but the documented format.
 *
 * <p>{@code kafka.sh java KeyedProducer.java send SERVERS TOPIC} reads lines of a record's key, a
 * tab and its value, as in {@code ai_note:15<TAB>{"v":1,...}}, and sends them with Kafka's own
 * partitioner. It writes key, partition and offset of each, in their order.
 *
 * <p>{@code kafka.sh java KeyedProducer.java partitions COUNT...} reads a key in hexadecimal from
 * the start of each line and writes the rows of {@code crates/domain/tests/golden/kafka-partitions.csv}:
 * the key, its murmur2 (unsigned), and its partition in logs of as many partitions.
 */
public final class KeyedProducer {
    public static void main(String[] args) throws Exception {
        List<String> lines;
        try (var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            lines = in.lines().toList();
        }
        if (args.length == 3 && args[0].equals("send")) {
            send(args[1], args[2], lines);
        } else if (args.length > 1 && args[0].equals("partitions")) {
            partitions(List.of(args).subList(1, args.length), lines);
        } else {
            System.err.println("usage: send SERVERS TOPIC | partitions COUNT...");
            System.exit(2);
        }
    }

    private static void send(String servers, String topic, List<String> lines) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", servers);
        var bytes = new ByteArraySerializer();
        var sent = new ArrayList<Future<RecordMetadata>>();
        try (var producer = new KafkaProducer<byte[], byte[]>(settings, bytes, bytes)) {
            for (String line : lines) {
                String[] parts = line.split("\t", 2);
                byte[] key = parts[0].getBytes(StandardCharsets.UTF_8);
                byte[] value = parts[1].getBytes(StandardCharsets.UTF_8);
                sent.add(producer.send(new ProducerRecord<>(topic, key, value)));
            }
        }
        for (int i = 0; i < lines.size(); i++) {
            RecordMetadata at = sent.get(i).get();
            String key = lines.get(i).split("\t", 2)[0];
            System.out.println(key + "\t" + at.partition() + "\t" + at.offset());
        }
    }

    private static void partitions(List<String> counts, List<String> lines) {
        System.out.println("key_hex,murmur2," + String.join(",", counts));
        for (String line : lines) {
            String hex = line.split(",", 2)[0];
            int hash = Utils.murmur2(HexFormat.of().parseHex(hex));
            var row = new StringBuilder(hex).append(',').append(Integer.toUnsignedString(hash));
            for (String count : counts) {
                row.append(',').append(Utils.toPositive(hash) % Integer.parseInt(count));
            }
            System.out.println(row);
        }
    }
}
