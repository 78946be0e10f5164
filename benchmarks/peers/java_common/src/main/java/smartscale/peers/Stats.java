package smartscale.peers;

import java.util.Arrays;

/**
 * Count, errors and an exponential latency histogram of one service and window, of the same relative error as
 * SmartScale's (base 2^(1/16): 2.17 %). Only the filled stretch of buckets is kept, so that a state store, which
 * serialises the aggregate at every update, has few bytes to copy.
 */
public final class Stats {
    private static final double PER_OCTAVE = 16;
    private static final double TO_SLOT = PER_OCTAVE / Math.log(2);

    public int count;
    public int errors;
    public int first;
    public int[] buckets = new int[0];

    Stats add(double latencyMs, boolean error) {
        count++;
        if (error) {
            errors++;
        }
        int slot = (int) Math.ceil(Math.log(Math.max(latencyMs * 1000, 1)) * TO_SLOT - 1e-11);
        if (buckets.length == 0) {
            first = slot;
            buckets = new int[1];
        } else if (slot < first) {
            int[] wider = new int[buckets.length + first - slot];
            System.arraycopy(buckets, 0, wider, first - slot, buckets.length);
            buckets = wider;
            first = slot;
        } else if (slot >= first + buckets.length) {
            buckets = Arrays.copyOf(buckets, slot - first + 1);
        }
        buckets[slot - first]++;
        return this;
    }

    String json(String service, long startMs) {
        return "{\"service\":\"" + service + "\",\"start_ms\":" + startMs + ",\"count\":" + count
            + ",\"errors\":" + errors + ",\"p99_ms\":" + p99Ms() + "}";
    }

    double p99Ms() {
        long rank = (long) Math.ceil(0.99 * count);
        long seen = 0;
        int at = -1;
        while (seen < rank) {
            seen += buckets[++at];
        }
        double upper = Math.pow(2, (first + at) / PER_OCTAVE);
        double lower = Math.pow(2, (first + at - 1) / PER_OCTAVE);
        return 2 * lower * upper / (lower + upper) / 1000;
    }
}
