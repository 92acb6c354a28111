"""Pages that people look at: leaderboard, run report, comparison. Each is one HTML file."""
