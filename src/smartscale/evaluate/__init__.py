"""How good forecasts and anomaly scores are, on histories that others can bring: predict first, learn the truth when it
would have arrived. ``smartscale evaluate`` is the command."""
