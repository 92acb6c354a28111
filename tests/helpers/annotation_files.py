"""Annotations as Raven, Audacity and Praat (long and short) write them, and recordings' names."""

NAMES = ["night.wav", "site1/a.wav", "site2/a.wav", "caf\u00e9.flac"]

RAVEN = (
    "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\t"
    "Begin File\tSpecies\r\n"
    "1\tWaveform 1\t1\t0.500000000\t1.250000000\t0.0\t24000.0\tnight.wav\towl\r\n"
    "1\tSpectrogram 1\t1\t0.500000000\t1.250000000\t900.0\t1200.0\tnight.wav\towl\r\n"
    '2\tSpectrogram 1\t1\t3.000000000\t4.000000000\t900.0\t1200.0\tnight.wav\t"odd" call\r\n'
    "3\tSpectrogram 1\t1\t5.000000000\t6.000000000\t900.0\t1200.0\tnight.wav\t\r\n"
)
AUDACITY = (
    "0.500000\t1.250000\towl\n"
    "\\\t900.000000\t1200.000000\n"
    "2.000000\t2.000000\ta point\n"
    "3.000000\t4.000000\tfox \n"
    "5.000000\t6.000000\t\n"
)
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.3
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "word"
        xmin = 0
        xmax = 2.3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.7
            text = ""
        intervals [2]:
            xmin = 0.7
            xmax = 1.5
            text = "sch\u00f6n ""so"" 3"
        intervals [3]:
            xmin = 1.5
            xmax = 2.3
            text = "ja"
    item [2]:
        class = "TextTier"
        name = "bell"
        xmin = 0
        xmax = 2.3
        points: size = 1
        points [1]:
            number = 1.2
            mark = "ding"
    item [3]:
        class = "IntervalTier"
        name = "empty"
        xmin = 0
        xmax = 2.3
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 2.3
            text = ""
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
2.3
<exists>
3
"IntervalTier"
"word"
0
2.3
3
0
0.7
""
0.7
1.5
"sch\u00f6n ""so"" 3"
1.5
2.3
"ja"
"TextTier" "bell" 0 2.3 1
1.2
"ding"
"IntervalTier"
"empty"
0
2.3
1
0
2.3
""
"""
