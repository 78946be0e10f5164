"""The Numenta benchmark's scorer against the benchmark's own published results, file by file.

Run: ``python benchmarks/models/nab_reference.py FOLDER``, a folder in the benchmark's layout, or to keep the result
``python benchmarks/run.py nab_reference -- FOLDER``. Prints one JSON value; exit code 1 if a file differs.

The benchmark's repository holds the scores of its windowed Gaussian detector for each file (``results/windowedGaussian``,
version 1.0). That detector is a few lines and has no chance in it, so its scores can be made again, and each file's sum
compared digit by digit: lateness, false alarms near and far from windows, misses and probation all take part. On all 58
files the published figures are 39.6, 20.9 and 47.4. Beside it stand the null detector, which is 0 by definition, the perfect
one, which is 100, and random scores, for which the benchmark publishes means over seeds of 11.0, 1.2 and 19.5 (standard: 8.0
to 16.8).
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Final

import numba
import numpy as np
import numpy.typing as npt

from smartscale.evaluate.anomalies.corpus import Labelled, read
from smartscale.evaluate.anomalies.nab import PROFILES, Scored, nab_scores, span

Floats = npt.NDArray[np.float64]

WINDOW, SLIDE = 6400, 100
DIGITS: Final = 12
"""Scores are compared with the threshold 1.0 as its result files hold them: with so many digits."""
SEEDS: Final = 20
TOLERANCE: Final = 1e-10
"""The published sums have twelve digits."""
PUBLISHED: Final = {
    "artificialNoAnomaly/art_daily_no_noise.csv": (0.0, 0),
    "artificialNoAnomaly/art_daily_perfect_square_wave.csv": (0.0, 0),
    "artificialNoAnomaly/art_daily_small_noise.csv": (0.0, 0),
    "artificialNoAnomaly/art_flatline.csv": (0.0, 0),
    "artificialNoAnomaly/art_noisy.csv": (0.0, 0),
    "artificialWithAnomaly/art_daily_flatmiddle.csv": (-1.0, 0),
    "artificialWithAnomaly/art_daily_jumpsdown.csv": (-1.0, 0),
    "artificialWithAnomaly/art_daily_jumpsup.csv": (-1.0, 0),
    "artificialWithAnomaly/art_daily_nojump.csv": (-1.0, 0),
    "artificialWithAnomaly/art_increase_spike_density.csv": (-1.0, 0),
    "artificialWithAnomaly/art_load_balancer_spikes.csv": (-0.692444609523, 15),
    "realAWSCloudwatch/ec2_cpu_utilization_24ae8d.csv": (-1.26667875935, 11),
    "realAWSCloudwatch/ec2_cpu_utilization_53ea38.csv": (-0.141423196117, 3),
    "realAWSCloudwatch/ec2_cpu_utilization_5f5533.csv": (-2.0, 0),
    "realAWSCloudwatch/ec2_cpu_utilization_77c1ca.csv": (-1.0, 0),
    "realAWSCloudwatch/ec2_cpu_utilization_825cc2.csv": (0.956537840284, 0),
    "realAWSCloudwatch/ec2_cpu_utilization_ac20cd.csv": (0.86067182427, 0),
    "realAWSCloudwatch/ec2_cpu_utilization_c6585a.csv": (-1.32, 12),
    "realAWSCloudwatch/ec2_cpu_utilization_fe7f93.csv": (0.638757791772, 1),
    "realAWSCloudwatch/ec2_disk_write_bytes_1ef3de.csv": (-4.19089678552, 48),
    "realAWSCloudwatch/ec2_disk_write_bytes_c0d644.csv": (-1.09599853032, 19),
    "realAWSCloudwatch/ec2_network_in_257a54.csv": (0.86067182427, 0),
    "realAWSCloudwatch/ec2_network_in_5abac7.csv": (-3.52193223519, 50),
    "realAWSCloudwatch/elb_request_count_8c0756.csv": (-0.138449197924, 0),
    "realAWSCloudwatch/grok_asg_anomaly.csv": (2.37942230674, 3),
    "realAWSCloudwatch/iio_us-east-1_i-a2eb1cd9_NetworkIn.csv": (-2.0, 0),
    "realAWSCloudwatch/rds_cpu_utilization_cc0c53.csv": (-0.138449197924, 0),
    "realAWSCloudwatch/rds_cpu_utilization_e47b3b.csv": (-0.138449197924, 0),
    "realAdExchange/exchange-2_cpc_results.csv": (-1.0, 0),
    "realAdExchange/exchange-2_cpm_results.csv": (-2.0, 0),
    "realAdExchange/exchange-3_cpc_results.csv": (2.50266326119, 1),
    "realAdExchange/exchange-3_cpm_results.csv": (0.862098587352, 0),
    "realAdExchange/exchange-4_cpc_results.csv": (0.292288463428, 4),
    "realAdExchange/exchange-4_cpm_results.csv": (1.27471036268, 3),
    "realKnownCause/ambient_temperature_system_failure.csv": (-2.0, 0),
    "realKnownCause/cpu_utilization_asg_misconfiguration.csv": (-1.11, 1),
    "realKnownCause/ec2_request_latency_system_failure.csv": (2.02150685678, 0),
    "realKnownCause/machine_temperature_system_failure.csv": (-4.0, 0),
    "realKnownCause/nyc_taxi.csv": (-5.0, 0),
    "realKnownCause/rogue_agent_key_hold.csv": (-2.44, 4),
    "realKnownCause/rogue_agent_key_updown.csv": (-1.3964908955, 8),
    "realTraffic/TravelTime_387.csv": (-1.79598133079, 6),
    "realTraffic/TravelTime_451.csv": (-1.0, 0),
    "realTraffic/occupancy_6005.csv": (-1.0, 0),
    "realTraffic/occupancy_t4013.csv": (1.72522152023, 3),
    "realTraffic/speed_6005.csv": (0.832538201468, 0),
    "realTraffic/speed_7578.csv": (3.47059145681, 1),
    "realTraffic/speed_t4013.csv": (1.76631783122, 0),
    "realTweets/Twitter_volume_AAPL.csv": (1.51399683626, 24),
    "realTweets/Twitter_volume_AMZN.csv": (1.55848299457, 20),
    "realTweets/Twitter_volume_CRM.csv": (0.763845764094, 0),
    "realTweets/Twitter_volume_CVS.csv": (0.773682061394, 18),
    "realTweets/Twitter_volume_FB.csv": (0.119750278191, 15),
    "realTweets/Twitter_volume_GOOG.csv": (-0.146777355167, 9),
    "realTweets/Twitter_volume_IBM.csv": (-0.799109479229, 25),
    "realTweets/Twitter_volume_KO.csv": (-0.914196106944, 33),
    "realTweets/Twitter_volume_PFE.csv": (0.26557999349, 12),
    "realTweets/Twitter_volume_UPS.csv": (-2.2051646682, 63),
}
"""Each file's sum in the standard profile at the threshold 1.0, and its false detections."""


@numba.njit(cache=True)
def windowed_gaussian(values: Floats) -> Floats:
    """One minus the normal tail probability of each value under the mean and deviation of a window of the values before it,
    which grows to ``WINDOW`` values and then slides by ``SLIDE`` at a time."""
    scores = np.zeros(len(values))
    first = last = waiting = 0
    mean, deviation = 0.0, 1.0
    for at in range(len(values)):
        if last > first:
            away = abs(values[at] - mean) / deviation
            scores[at] = 1.0 - 0.5 * math.erfc(away / math.sqrt(2.0))
        if last - first < WINDOW:
            last += 1
        else:
            waiting += 1
            if waiting < SLIDE:
                continue
            first, last, waiting = first + SLIDE, last + SLIDE, 0
        mean = values[first:last].mean()
        deviation = values[first:last].std()
        if deviation == 0.0:
            deviation = 1e-6
    return scores


def gaussian(one: Labelled) -> Scored:
    scores = [float(f"{score:.{DIGITS}g}") for score in windowed_gaussian(one.values[:, 0])]
    return Scored(one.times_us, np.array(scores), one.windows or ())


def perfect(one: Labelled) -> Scored:
    scores = np.zeros(len(one.times_us))
    scores[[span(one.times_us, *window)[0] for window in one.windows or ()]] = 1.0
    return Scored(one.times_us, scores, one.windows or ())


def profiles(files: list[Scored]) -> dict[str, float]:
    return {name: round(score.score, 2) for name, score in nab_scores(files).items()}


def main(folder: Path) -> int:
    corpus = read(folder)
    made = [gaussian(one) for one in corpus.files]
    away: dict[str, float] = {}
    wrong: list[str] = []
    for one, scored in zip(corpus.files, made, strict=True):
        told = nab_scores([scored], 1.0)[PROFILES[0].name]
        raw, false_alarms = PUBLISHED[one.name]
        away[one.name] = abs(told.raw - raw)
        if away[one.name] > TOLERANCE or told.false_alarms != false_alarms:
            wrong.append(one.name)
    drawn = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        drawn.append(profiles([one._replace(scores=rng.random(len(one.scores))) for one in made]))
    result = {
        "files": len(made),
        "files_that_differ": wrong,
        "largest_difference": max(away.values()),
        "windowed_gaussian": profiles(made),
        "null": profiles([one._replace(scores=np.zeros(len(one.scores))) for one in made]),
        "perfect": profiles([perfect(one) for one in corpus.files]),
        "random": {
            what: {
                profile.name: round(float(of([one[profile.name] for one in drawn])), 2)
                for profile in PROFILES
            }
            for what, of in (("mean", np.mean), ("least", np.min), ("most", np.max))
        },
    }
    print(json.dumps(result, indent=2))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
