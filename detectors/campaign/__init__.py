"""Campaigns: several keys that are one attacker, linked by what they ask, found by how they share it out."""

from __future__ import annotations

from detectors.campaign.detector import CampaignDetector
from detectors.campaign.finding import CampaignFinding, make_campaign_alert
from detectors.campaign.pooled import owner_ids

__all__ = ["CampaignDetector", "CampaignFinding", "make_campaign_alert", "owner_ids"]
