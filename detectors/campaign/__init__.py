"""Campaigns: several keys that are one attacker, linked by what they ask and found by how they share the work."""

from __future__ import annotations

from detectors.campaign.detector import CampaignDetector
from detectors.campaign.finding import CampaignFinding, make_campaign_alert

__all__ = ["CampaignDetector", "CampaignFinding", "make_campaign_alert"]
