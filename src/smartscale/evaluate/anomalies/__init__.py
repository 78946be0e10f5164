"""How good a streaming detector is on labelled series: the Numenta Anomaly Benchmark's score (``nab``) and the volume under
the precision-recall surface (``vus``)."""
